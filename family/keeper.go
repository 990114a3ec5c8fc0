package family

import (
	"context"
	"errors"
	"fmt"
)

// ErrBusy means that others changed the family faster than this request could judge
// it. Nothing happened; the request may be sent again.
var ErrBusy = errors.New("family is busy")

// attempts bounds how often a request is judged again after a conflict. Each
// conflict is another request's success, and after one rotation every other holder
// of the same token repeats without a write, so more than a few are abnormal.
const attempts = 64

// Judge decides at each attempt what is to become of the family as it was loaded: it
// returns the next state, a verdict and the events to store with it. Returning the
// state unchanged stores nothing but still lets the verdict stand.
type Judge func(s State, st Standing) (State, Verdict, []Event)

// Step loads a family, judges it and commits what was decided, as one atomic step:
// if somebody else changed the family meanwhile, it is loaded and judged again. It
// returns the state after the step as the store has it, its version included. An error means that the outcome is not known to
// the caller: no token may be handed out.
func Step(ctx context.Context, st Store, id ID, judge Judge) (State, Verdict, Standing, error) {
	for range attempts {
		s, standing, err := st.Load(ctx, id)
		if err != nil {
			return State{}, Verdict{}, Standing{}, fmt.Errorf("load family: %w", err)
		}
		next, v, events := judge(s, standing)
		if next == s {
			return s, v, standing, nil
		}
		err = st.Commit(ctx, next, events...)
		if err == nil {
			next.Version++
			return next, v, standing, nil
		}
		if !errors.Is(err, ErrConflict) {
			return State{}, Verdict{}, Standing{}, fmt.Errorf("commit family: %w", err)
		}
	}
	return State{}, Verdict{}, Standing{}, ErrBusy
}

// End revokes one family for a reason, whatever else happens to it meanwhile. It
// reports whether this call ended it. When it returns nil the family is durably dead.
// A family that was revoked before keeps its reason. One that has only expired is still
// Live in its row, and End takes no policy to see it by: it is revoked all the same, so
// that its record says why, not expired_idle or expired_absolute, and its event is
// FamilyRevoked instead of the FamilyExpired that the sweep would have written.
func End(ctx context.Context, st Store, id ID, why Reason, from Origin, request string) (ended bool, err error) {
	_, _, _, err = Step(ctx, st, id, func(s State, at Standing) (State, Verdict, []Event) {
		next := s.Revoke(at.Now, why, from)
		ended = next != s
		e := s.EventFor(FamilyRevoked, why, Token{Generation: s.Head}, from)
		e.Request = request
		return next, Verdict{Refuse, why}, []Event{e}
	})
	switch {
	case errors.Is(err, ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	}
	return ended, nil
}

// EndAll revokes every living family that q selects and keep does not; keep may be
// nil. It returns how many it ended. When it returns nil all of them are durably
// dead; after an error some may be.
func EndAll(ctx context.Context, st Store, ix Index, q Query, keep func(State) bool, why Reason, from Origin, request string) (int, error) {
	n := 0
	q.LiveOnly, q.Limit, q.After = true, 1000, ID{}
	for {
		page, err := ix.Families(ctx, q)
		if err != nil {
			return n, fmt.Errorf("list families: %w", err)
		}
		for _, s := range page {
			if keep != nil && keep(s) {
				continue
			}
			ended, err := End(ctx, st, s.ID, why, from, request)
			if err != nil {
				return n, err
			}
			if ended {
				n++
			}
		}
		if len(page) < q.Limit {
			return n, nil
		}
		q.After = page[len(page)-1].ID
	}
}
