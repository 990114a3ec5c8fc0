package admin

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/heirloom-auth/heirloom/family"
	"github.com/heirloom-auth/heirloom/session"
	"github.com/heirloom-auth/heirloom/user"
)

// Sentence says in plain words why a family or session ended, or what else a reason
// stands for. It continues "because" or stands alone; it is "" for what is no reason.
func Sentence(why family.Reason) string {
	switch why {
	case family.Issued:
		return "the authorization was given and its code issued"
	case family.Rotated:
		return "the token was used and its successor issued"
	case family.RepeatedRetry:
		return "a retry, proven by its Idempotency-Key, got the same answer again"
	case family.RepeatedPossession:
		return "a client that proved itself got the newest token again"
	case family.RepeatedWindow:
		return "a retry inside the leeway got the same answer again"
	case family.RepeatedUntilUsed:
		return "a retry before the successor was used got the same answer again"
	case family.Recovered:
		return "a token newer than the store knew was accepted: the store has lost commits"
	case family.Reused:
		return "a token that had been used before came back: somebody has a copy of it, so the family was ended"
	case family.Superseded:
		return "a token that had been used before was refused; the family lives on, as its policy says"
	case family.ExpiredIdle:
		return "it was not used for longer than its policy allows"
	case family.ExpiredAbsolute:
		return "it reached the end of its life"
	case family.RevokedClient:
		return "the client gave its token back"
	case family.RevokedUser:
		return "the user ended it on the account page"
	case family.RevokedAdmin:
		return "an operator ended it"
	case family.RevokedLogout:
		return "the user signed out"
	case family.RevokedPasswordChange:
		return "the user's password was changed, which ends everything that the old one opened"
	case family.UserDisabled:
		return "the user is disabled, or was when it ended"
	case family.ClientDisabled:
		return "the client is disabled"
	case family.Evicted:
		return "a newer sign-in took its place: there is a limit of families"
	case family.BindingMismatch:
		return "a request with the wrong key, or with none, was refused; nothing changed"
	case family.ForeignClient:
		return "another client presented the token and was refused; nothing changed"
	case family.InvalidScope:
		return "a scope was asked for that was not granted; nothing changed"
	case family.InvalidTarget:
		return "a resource was asked for that was not granted; nothing changed"
	case family.Unknown:
		return "the token is none of ours"
	case family.Unavailable:
		return "the store did not answer; the token was not used up"
	}
	return ""
}

// endSentence adds the figures that a policy and a head have.
func endSentence(why family.Reason, s family.State, p family.Policy) string {
	switch {
	case why == family.ExpiredIdle && s.Head == 0:
		return "its code was not exchanged in time"
	case why == family.ExpiredIdle && p.Idle > 0:
		return fmt.Sprintf("%s (idle: %s)", Sentence(why), span(p.Idle))
	case why == family.ExpiredAbsolute && p.Absolute > 0 && s.IssuedAt.Add(p.Absolute) == endOf(s, p):
		return fmt.Sprintf("%s (absolute: %s)", Sentence(why), span(p.Absolute))
	case why == family.ExpiredAbsolute:
		return Sentence(why) + ": that of its session, or the one that was announced when it began"
	}
	return Sentence(why)
}

func endOf(s family.State, p family.Policy) family.Time {
	end, _ := s.Deadline(p)
	return end
}

// Line is one line in the life of a family.
type Line struct {
	At         time.Time `json:"at,omitzero"` // zero: not known
	Generation uint32    `json:"generation"`
	Level      string    `json:"level"`
	Reason     string    `json:"reason,omitempty"`
	Text       string    `json:"text"`
	Client     string    `json:"client"`
	IP         string    `json:"ip,omitempty"`
	Device     string    `json:"device,omitempty"`
	UserAgent  string    `json:"user_agent,omitempty"`
	Request    string    `json:"request,omitempty"`

	seq  uint64 // of the event, 0 for a use
	rank int    // order among lines of one moment
}

// FamilyLife is the life of a family, the oldest line first.
type FamilyLife struct {
	Family FamilyView `json:"family"`
	Lines  []Line     `json:"lines"`
}

func (a *API) whyFamily(c *call) (any, error) {
	s, err := a.findFamily(c)
	if err != nil {
		return nil, err
	}
	f, err := a.people().fate(c.Context(), s)
	if err != nil {
		return nil, err
	}
	events, err := a.Store.Events(c.Context(), family.EventQuery{Family: s.ID, Limit: maxPage})
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	return FamilyLife{viewFamily(s, f), lifeOf(s, f, events)}, nil
}

// lifeOf joins what the row remembers and what the events tell into one story.
func lifeOf(s family.State, f fate, events []family.Event) []Line {
	var lines []Line
	for _, e := range events {
		l := lineAt(e.At, e.Generation, e.Reason, s.Grant.Client, e.Origin)
		l.Level, l.Request, l.seq = e.Level.String(), e.Request, e.Seq
		l.rank = len(s.Trail.Uses) + 1
		if e.Kind == family.FamilyIssued {
			l.rank = -1
		}
		if e.Client != "" {
			l.Client = e.Client
		}
		l.Text = eventText(e, s, f)
		lines = append(lines, l)
	}
	history := s.History()
	for i, u := range history {
		if i == 0 && u.Reason != family.Issued {
			lines = append(lines, Line{
				At: u.At.Std(), Generation: 0, Level: family.Info.String(), Client: s.Grant.Client,
				Text: olderUses(u, len(history)),
			})
		}
		// An event tells the same with more detail; its clock is the commit's, the row's the judgement's.
		j := slices.IndexFunc(lines, func(l Line) bool {
			return l.seq != 0 && l.Reason == u.Reason.String() && l.Generation == u.Generation && apart(l.At, u.At.Std()) < time.Minute
		})
		if j < 0 {
			l := lineAt(u.At, u.Generation, u.Reason, s.Grant.Client, u.Origin)
			l.Level = family.Info.String()
			if u.Reason == family.Reused || u.Reason == family.Recovered {
				l.Level = family.Alert.String()
			}
			l.Text, l.rank = useText(u.Use), i+1
			lines = append(lines, l)
			continue
		}
		if lines[j].rank > 0 {
			lines[j].rank = i + 1
		}
		if lines[j].IP == "" && lines[j].UserAgent == "" {
			lines[j].IP, lines[j].Device, lines[j].UserAgent = ipOf(u.Origin), deviceOf(u.Origin), u.Origin.UserAgent
		}
	}
	slices.SortStableFunc(lines, func(a, b Line) int {
		return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.rank, b.rank), cmp.Compare(a.seq, b.seq))
	})
	if s.Status == family.Live {
		l := Line{Generation: s.Head, Level: family.Info.String(), Client: s.Grant.Client}
		switch {
		case f.over:
			l.At, l.Reason = f.at.Std(), f.why.String()
			l.Text = "ended: " + endSentence(f.why, s, f.policy)
		case f.ends != 0:
			l.Text = "lives; without another use it ends at " + f.ends.Std().Format(time.RFC3339)
		default:
			l.Text = "lives, without an end"
		}
		lines = append(lines, l)
	}
	return lines
}

func apart(a, b time.Time) time.Duration {
	d := a.Sub(b)
	return max(d, -d)
}

func lineAt(at family.Time, g uint32, why family.Reason, clientID string, from family.Origin) Line {
	l := Line{
		At: at.Std(), Generation: g, Client: clientID,
		IP: ipOf(from), Device: deviceOf(from), UserAgent: from.UserAgent,
	}
	if why != 0 {
		l.Reason = why.String()
	}
	return l
}

// olderUses says which uses the ring has forgotten.
func olderUses(first family.Entry, kept int) string {
	switch {
	case first.Reason != family.Rotated || first.Generation == 0:
		return fmt.Sprintf("earlier uses are older than the %d that are kept", kept)
	case first.Generation == 1:
		return fmt.Sprintf("the use of generation 0 is older than the %d uses that are kept", kept)
	}
	return fmt.Sprintf("the uses of generations 0–%d are older than the %d uses that are kept", first.Generation-1, kept)
}

// useText says what a use of a generation did.
func useText(u family.Use) string {
	switch u.Reason {
	case family.Rotated:
		if u.Generation == 0 {
			return "the code was exchanged: generation 1 issued"
		}
		return fmt.Sprintf("generation %d was used: generation %d issued", u.Generation, u.Generation+1)
	case family.Recovered:
		return fmt.Sprintf("generation %d was presented, newer than the store knew: generation %d issued, the store has lost commits", u.Generation, u.Generation+1)
	case family.Reused:
		if u.Generation == 0 {
			return "the code was presented a second time: somebody has a copy of it, so the family was ended"
		}
		return fmt.Sprintf("generation %d was presented again after it had been used: somebody has a copy of it, so the family was ended", u.Generation)
	}
	return Sentence(u.Reason)
}

// eventText says what an event tells.
func eventText(e family.Event, s family.State, f fate) string {
	var text string
	switch e.Kind {
	case family.FamilyRevoked, family.FamilyExpired:
		text = "ended: " + endSentence(e.Reason, s, f.policy)
		if e.Reason == family.Reused {
			text = useText(family.Use{Generation: e.Generation, Reason: e.Reason})
		}
	case family.FamilyRecovered:
		text = useText(family.Use{Generation: e.Generation, Reason: family.Recovered})
	case family.FamilyNarrowed:
		text = "scopes were taken away"
	case family.TokenRevoked:
		text = "one access token was revoked; the family lives on"
	case family.FamilyIssued, family.FamilyAlarm:
		text = Sentence(e.Reason)
		if text == "" && e.Kind == family.FamilyIssued {
			text = Sentence(family.Issued)
		}
	}
	if text == "" {
		text = string(e.Kind)
	}
	if e.Detail != "" && e.Detail != text {
		text += ": " + e.Detail
	}
	return text
}

// End is something of a user's that ended.
type End struct {
	At       time.Time `json:"at,omitzero"` // zero: not known
	Level    string    `json:"level"`
	What     string    `json:"what"` // family, session or user
	ID       string    `json:"id,omitempty"`
	Client   string    `json:"client,omitempty"`
	Reason   string    `json:"reason"`
	Text     string    `json:"text"`
	IP       string    `json:"ip,omitempty"`
	Device   string    `json:"device,omitempty"`
	LastUsed time.Time `json:"last_used,omitzero"`
}

// UserLife answers "why was I logged out".
type UserLife struct {
	User         UserView `json:"user"`
	Answer       string   `json:"answer"` // one sentence
	LiveSessions int      `json:"live_sessions"`
	LiveFamilies int      `json:"live_families"`
	Ends         []End    `json:"ends"` // the newest first
}

func (a *API) whyUser(c *call) (any, error) {
	q, err := c.params("limit")
	if err != nil {
		return nil, err
	}
	most, err := limit(q)
	if err != nil {
		return nil, err
	}
	u, err := a.findUser(c.Context(), c.PathValue("user"))
	if err != nil {
		return nil, err
	}
	life := UserLife{User: viewUser(u), Ends: []End{}}
	told := map[string]bool{}
	if err := a.endedFamilies(c.Context(), u, &life, told); err != nil {
		return nil, err
	}
	sessions, err := a.sessionsOf(c, u, false)
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		if s.Status == "live" {
			life.LiveSessions++
			continue
		}
		told[s.ID] = true
		why, _ := family.ParseReason(s.Reason)
		life.Ends = append(life.Ends, End{
			At: s.EndedAt, Level: family.Info.String(), What: "session", ID: s.ID, Reason: s.Reason,
			Text: "a sign-in ended: " + Sentence(why), IP: s.IP, Device: s.Device, LastUsed: s.LastSeen,
		})
	}
	if err := a.sweptEnds(c.Context(), u, &life, told); err != nil {
		return nil, err
	}
	if !u.NotBefore.IsZero() {
		why, _ := family.ParseReason(u.NotBeforeReason)
		life.Ends = append(life.Ends, End{
			At: u.NotBefore, Level: family.Info.String(), What: "user", ID: string(u.ID), Reason: u.NotBeforeReason,
			Text: "everything until then was ended: " + cutOffSentence(why),
		})
	}
	slices.SortStableFunc(life.Ends, func(a, b End) int { return b.At.Compare(a.At) })
	life.Ends = life.Ends[:min(len(life.Ends), most)]
	life.Answer = answerOf(u, life)
	return life, nil
}

// cutOffSentence is Sentence for what ended everything of a user at once.
func cutOffSentence(why family.Reason) string {
	switch why {
	case family.RevokedAdmin:
		return "an operator signed the user out everywhere"
	case family.RevokedUser:
		return "the user signed out everywhere"
	case family.UserDisabled:
		return "an operator disabled the user"
	}
	return Sentence(why)
}

// endedFamilies adds the user's ended families to the story and counts the living.
func (a *API) endedFamilies(ctx context.Context, u user.User, life *UserLife, told map[string]bool) error {
	who := a.people()
	query := family.Query{User: string(u.ID), Limit: maxPage}
	for {
		states, err := a.Store.Families(ctx, query)
		if err != nil {
			return fmt.Errorf("list families: %w", err)
		}
		for _, s := range states {
			f, err := who.fate(ctx, s)
			if err != nil {
				return err
			}
			if !f.over {
				life.LiveFamilies++
				continue
			}
			told[s.ID.String()] = true
			// A code that nobody exchanged never signed anybody in.
			if s.Head == 0 && f.why == family.ExpiredIdle {
				continue
			}
			life.Ends = append(life.Ends, familyEnd(s, f))
		}
		if len(states) < query.Limit {
			return nil
		}
		query.After = states[len(states)-1].ID
	}
}

func familyEnd(s family.State, f fate) End {
	name := f.client.Name
	if name == "" {
		name = s.Grant.Client
	}
	e := End{
		At: f.at.Std(), Level: family.Info.String(), What: "family", ID: s.ID.String(), Client: s.Grant.Client,
		Reason: f.why.String(), Text: name + " was signed out: " + endSentence(f.why, s, f.policy), LastUsed: s.LastUsed.Std(),
	}
	if from, ok := lastOrigin(s); ok {
		e.IP, e.Device = ipOf(from), deviceOf(from)
	}
	if f.why == family.Reused {
		e.Level = family.Alert.String()
		// Where the old token came from: the thief, or the owner after the thief.
		if h := s.History(); len(h) > 0 && h[len(h)-1].Reason == family.Reused {
			last := h[len(h)-1]
			e.IP, e.Device = ipOf(last.Origin), deviceOf(last.Origin)
			e.Text = fmt.Sprintf("%s was signed out: %s", name, useText(last.Use))
		}
	}
	return e
}

// sweptEnds adds what only events still tell of.
func (a *API) sweptEnds(ctx context.Context, u user.User, life *UserLife, told map[string]bool) error {
	events, err := a.Store.Events(ctx, family.EventQuery{User: string(u.ID), Limit: maxPage})
	if err != nil {
		return fmt.Errorf("list events: %w", err)
	}
	for _, ev := range events {
		e := End{
			At: ev.At.Std(), Level: ev.Level.String(), Client: ev.Client, Reason: ev.Reason.String(),
			IP: ipOf(ev.Origin), Device: deviceOf(ev.Origin),
		}
		switch ev.Kind {
		case family.FamilyRevoked, family.FamilyExpired:
			e.What, e.ID, e.Text = "family", ev.Family.String(), ev.Client+" was signed out: "+Sentence(ev.Reason)
		case family.SessionEnded:
			e.What, e.ID, e.Text = "session", session.ID(ev.Session).String(), "a sign-in ended: "+Sentence(ev.Reason)
		case family.UserChanged:
			// A user who is enabled again may still ask what happened meanwhile.
			if ev.Detail != "disabled" {
				continue
			}
			e.What, e.ID, e.Text = "user", string(u.ID), "everything was suspended: an operator disabled the user"
		default:
			continue
		}
		if told[e.ID] {
			continue
		}
		if e.What != "user" {
			told[e.ID] = true
		}
		life.Ends = append(life.Ends, e)
	}
	return nil
}

// answerOf is the one sentence for a person who asks.
func answerOf(u user.User, life UserLife) string {
	switch {
	case u.Status != user.Enabled:
		return u.Username + " is disabled: nothing is accepted until an operator enables the user again"
	case len(life.Ends) == 0 && life.LiveSessions+life.LiveFamilies == 0:
		return u.Username + " has never been signed in, or so long ago that nothing is kept of it"
	case len(life.Ends) == 0:
		return u.Username + " has not been signed out"
	}
	last := life.Ends[0]
	when := "at a time that is not known"
	if !last.At.IsZero() {
		when = "at " + last.At.Format(time.RFC3339)
	}
	return fmt.Sprintf("the last end was %s: %s", when, last.Text)
}
