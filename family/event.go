package family

// Level says who should look at an event. Zero is invalid.
type Level uint8

// The levels of events.
const (
	_     Level = iota
	Info        // a record
	Alert       // somebody has a copy of a token, or the store lost data: a person should look
)

// String returns "INFO" or "ALERT".
func (l Level) String() string {
	if l == Alert {
		return "ALERT"
	}
	return "INFO"
}

// Kind of an event: what happened, to what. The list is closed.
type EventKind string

// The kinds of events. Those of families carry a Reason.
const (
	FamilyIssued    EventKind = "family_issued"    // an authorization was given
	FamilyRecovered EventKind = "family_recovered" // a token newer than the store's head was accepted
	FamilyNarrowed  EventKind = "family_narrowed"  // scopes were withdrawn
	FamilyRevoked   EventKind = "family_revoked"   // exactly one for each family that ends before its time
	FamilyExpired   EventKind = "family_expired"   // exactly one for each family that ends in time, when it is swept
	FamilyAlarm     EventKind = "family_alarm"     // refused without a change: foreign client, wrong binding, superseded
	TokenRevoked    EventKind = "token_revoked"    // one access token
	SessionStarted  EventKind = "session_started"
	SessionEnded    EventKind = "session_ended"
	SignInFailed    EventKind = "sign_in_failed"
	UserCreated     EventKind = "user_created"
	UserChanged     EventKind = "user_changed" // Detail says what
	UserDeleted     EventKind = "user_deleted"
	UserRevoked     EventKind = "user_revoked" // a cut-off: everything of the user until now
	ClientChanged   EventKind = "client_changed"
	ClientRevoked   EventKind = "client_revoked" // a cut-off: everything of the client until now
	KeyChanged      EventKind = "key_changed"
)

// Event is one line of the audit log, stored by the same commit as the change it
// tells of. No field ever holds a token or a secret.
type Event struct {
	Seq        uint64 // set by the store, in the order of commits
	At         Time   // set by the store if 0
	Level      Level  // 0 is stored as Info
	Kind       EventKind
	Reason     Reason // 0: none
	Family     ID     // zero: none
	Generation uint32
	Client     string
	User       string
	Session    [16]byte
	Origin     Origin // sealed at rest
	Request    string // request id, "" = none
	Detail     string // a short sentence without personal data
}

// EventFor fills in what a family's event has from its state.
func (s State) EventFor(kind EventKind, why Reason, t Token, from Origin) Event {
	return Event{
		Kind: kind, Reason: why, Family: s.ID, Generation: t.Generation,
		Client: s.Grant.Client, User: s.Grant.User, Session: s.Grant.Session, Origin: from,
	}
}

// Ends reports whether an event of this kind ends access tokens before their time:
// those are what the revocation feed tells of.
func (k EventKind) Ends() bool {
	switch k {
	case FamilyRevoked, FamilyNarrowed, TokenRevoked, UserRevoked, UserDeleted, ClientRevoked:
		return true
	}
	return false
}
