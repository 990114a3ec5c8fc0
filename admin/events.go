package admin

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
)

// EventView is an event as the API shows it.
type EventView struct {
	Seq        uint64    `json:"seq"`
	At         time.Time `json:"at"`
	Level      string    `json:"level"` // INFO or ALERT
	Kind       string    `json:"kind"`
	Reason     string    `json:"reason,omitempty"`
	Family     string    `json:"family,omitempty"`
	Generation uint32    `json:"generation,omitempty"`
	Client     string    `json:"client,omitempty"`
	User       string    `json:"user,omitempty"`
	Session    string    `json:"session,omitempty"`
	IP         string    `json:"ip,omitempty"`
	Device     string    `json:"device,omitempty"`
	Request    string    `json:"request,omitempty"`
	Detail     string    `json:"detail,omitempty"`
}

func viewEvent(e family.Event) EventView {
	v := EventView{
		Seq: e.Seq, At: e.At.Std(), Level: e.Level.String(), Kind: string(e.Kind),
		Generation: e.Generation, Client: e.Client, User: e.User,
		IP: ipOf(e.Origin), Device: deviceOf(e.Origin), Request: e.Request, Detail: e.Detail,
	}
	if e.Reason != 0 {
		v.Reason = e.Reason.String()
	}
	if e.Family != (family.ID{}) {
		v.Family = e.Family.String()
	}
	if e.Session != [16]byte{} {
		v.Session = session.ID(e.Session).String()
	}
	return v
}

// EventPage is one page of events, the newest first.
type EventPage struct {
	Events []EventView `json:"events"`
	Next   uint64      `json:"next,omitempty"` // `before` of the next page
}

func (a *API) listEvents(c *call) (any, error) {
	q, err := c.params("family", "user", "session", "level", "before", "limit")
	if err != nil {
		return nil, err
	}
	var query family.EventQuery
	if query.Limit, err = limit(q); err != nil {
		return nil, err
	}
	if raw := q.Get("family"); raw != "" {
		if query.Family, err = family.ParseID(raw); err != nil {
			return nil, invalid(err.Error(), "")
		}
	}
	if name := q.Get("user"); name != "" {
		// An id is taken as it is: events outlive their user.
		query.User = name
		if !strings.HasPrefix(name, "u_") {
			u, err := a.findUser(c.Context(), name)
			if err != nil {
				return nil, err
			}
			query.User = string(u.ID)
		}
	}
	if raw := q.Get("session"); raw != "" {
		id, err := session.ParseID(raw)
		if err != nil {
			return nil, invalid(err.Error(), "")
		}
		query.Session = id
	}
	switch strings.ToLower(q.Get("level")) {
	case "", "info":
	case "alert":
		query.MinLevel = family.Alert
	default:
		return nil, invalid("level is neither info nor alert", "")
	}
	if raw := q.Get("before"); raw != "" {
		if query.Before, err = strconv.ParseUint(raw, 10, 64); err != nil || query.Before == 0 {
			return nil, invalid("before is not a positive number", "")
		}
	}
	events, err := a.Store.Events(c.Context(), query)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	page := EventPage{Events: []EventView{}}
	for _, e := range events {
		page.Events = append(page.Events, viewEvent(e))
	}
	if len(events) == query.Limit {
		page.Next = events[len(events)-1].Seq
	}
	return page, nil
}
