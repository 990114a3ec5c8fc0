/*
 * The rotation protocol of a refresh token family (DESIGN.md §2), small enough to be
 * checked whole. README.md says what each configuration promises and what it does not;
 * model_test.go runs them all. By hand:
 *
 *	spin -a -DKEY=1 rotation.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000
 *	spin -a -DKEY=0 rotation.pml && gcc -O2 -DSAFETY -o pan pan.c && ./pan -m100000; ./pan -r
 *
 * The second finds an honest client that is revoked and prints the way there.
 */

/* The policy. */
#ifndef LEEWAY
#define LEEWAY		0	/* ticks */
#endif
#ifndef UNTIL_USED
#define UNTIL_USED	0
#endif
#ifndef SAME_PRESENTER
#define SAME_PRESENTER	0
#endif
#ifndef POSSESSION
#define POSSESSION	0	/* 1: sender-constrained, or a client that authenticates */
#endif
#define STRICT		(LEEWAY == 0 && !UNTIL_USED)

/* The owner. */
#ifndef KEY
#define KEY		0	/* 1: stores an Idempotency-Key with the token before it sends */
#endif
#ifndef FIRST
#define FIRST		0	/* where the story begins: 0 with the code, 1 with a refresh token */
#endif
#ifndef TABS
#define TABS		1	/* tabs or processes that share the store */
#endif
#ifndef LOCK
#define LOCK		0	/* 1: one tab at a time refreshes; a crash frees the lock */
#endif
#ifndef PROMPT
#define PROMPT		0	/* 1: a token reaches the server only within leeway of its first sending */
#endif
#ifndef SPACED
#define SPACED		0	/* 1: a new token is not used before it is leeway old */
#endif

/* The others. */
#ifndef LATE
#define LATE		0	/* 1: a request whose sender gave up may still arrive, at any time */
#endif
#ifndef REVOKER
#define REVOKER		0	/* 1: somebody revokes the family at some moment */
#endif
#ifndef LOSSES
#define LOSSES		0	/* how often an asynchronous replica is promoted */
#endif
#ifndef THIEF
#define THIEF		0	/* 1: copies the token; 2: token and key */
#endif
#ifndef DISGUISE
#define DISGUISE	1	/* 1: the thief sends the owner's User-Agent */
#endif
#ifndef BOUND
#define BOUND		255	/* the thief is not served once the owner has refreshed that often since */
#endif

/* The size of the world. */
#ifndef GENS
#define GENS		4	/* the story ends when the head gets here */
#endif
#ifndef TICKS
#define TICKS		1	/* the clock starts at 1 and stops here */
#endif

/* Nobody steals or revokes, or the thief can not prove possession: who is refused was wronged. */
#define HONEST	((THIEF == 0 || POSSESSION) && !REVOKER)

#define NONE	0	/* no key, no window, not sent yet */
#define NEVER	255
#define THIEFS	254	/* a key of the thief's own */

/* Verdicts: a mtype named after its reason (DESIGN.md §9); unanswered is none of them. */
mtype = {
	unanswered, rotated, recovered,
	repeated_retry, repeated_possession, repeated_window, repeated_until_used,
	reuse, revoked, invalid_proof, undelivered
};
#define accepted(v)	(v == rotated || v == recovered || v == repeated_retry || \
	v == repeated_possession || v == repeated_window || v == repeated_until_used)

mtype = { owner, thief };	/* who sends */

/* The row of the family. (Spin keeps the name State to itself.) */
typedef Row {
	bool live;
	byte head;
	byte floor;
	byte window;	/* start of the burst's window; NONE: none yet */
	byte last;	/* when the head was made, and its predecessor retired */
	byte retry;	/* key of the request that made the head; NONE: it had none */
	bit presenter	/* and its User-Agent */
};

inline copy(to, from)
{
	to.live = from.live; to.head = from.head; to.floor = from.floor;
	to.window = from.window; to.last = from.last; to.retry = from.retry; to.presenter = from.presenter
}

inline forget()
{
	s.live = 0; s.head = 0; s.floor = 0; s.window = 0; s.last = 0; s.retry = 0; s.presenter = 0;
	n.live = 0; n.head = 0; n.floor = 0; n.window = 0; n.last = 0; n.retry = 0; n.presenter = 0;
	g = 0; k = 0; at = 0; changed = 0; v = unanswered
}

/* ---- the rules: s, at and the request in; n, v and changed out ---- */

/* The guards of the table's rows, for a retired g. Each fault is a plausible mistake. */
#if defined(FAULT_KEY_IGNORED)
#define by_retry	false
#elif defined(FAULT_ANY_KEY)
#define by_retry	(g + 1 == s.head && k != NONE)
#elif defined(FAULT_KEY_AFTER_USED)
#define by_retry	(g < s.head && k != NONE && k == keyed[g])
#else
#define by_retry	(g + 1 == s.head && k != NONE && k == s.retry)
#endif

#if defined(FAULT_POSSESSION_OF_PARENT_ONLY)
#define by_possession	(POSSESSION && !STRICT && g + 1 == s.head)
#else
#define by_possession	(POSSESSION && !STRICT)
#endif

#if defined(FAULT_PRESENTER_IGNORED)
#define presenter_fits	true
#elif defined(FAULT_PRESENTER_REVERSED)
#define presenter_fits	(ua != s.presenter)
#else
#define presenter_fits	(!SAME_PRESENTER || ua == s.presenter)
#endif

#if defined(FAULT_WINDOW_CLOSED)
#define in_window	false
#elif defined(FAULT_WINDOW_ENDS_LATE)
#define in_window	(LEEWAY > 0 && s.window != NONE && at <= s.window + LEEWAY)
#else
#define in_window	(LEEWAY > 0 && s.window != NONE && at < s.window + LEEWAY)
#endif

#if defined(FAULT_FLOOR)
#define above_floor	true
#else
#define above_floor	(s.floor <= g)
#endif

#if defined(FAULT_OWN_LEEWAY_CLOSED)
#define own_leeway	false
#elif defined(FAULT_OWN_LEEWAY_ENDS_LATE)
#define own_leeway	(LEEWAY > 0 && g + 1 == s.head && s.window != NONE && s.last <= at && at <= s.last + LEEWAY)
#elif defined(FAULT_OWN_LEEWAY_OF_ALL)
#define own_leeway	(s.window != NONE && s.last <= at && at < s.last + LEEWAY)
#else
#define own_leeway	(g + 1 == s.head && s.window != NONE && s.last <= at && at < s.last + LEEWAY)
#endif

#if defined(FAULT_UNTIL_USED_IGNORED)
#define until_used	false
#elif defined(FAULT_REPEAT_AFTER_USED)
#define until_used	(UNTIL_USED && g < s.head)
#else
#define until_used	(UNTIL_USED && g + 1 == s.head)
#endif

#if defined(FAULT_CODE_LEEWAY)
#define refresh_token	true
#else
#define refresh_token	(g > 0)
#endif

inline advance()
{
	n.head = g + 1;
	changed = true;
	if
#if !defined(FAULT_RECOVER_FORGETS_RETRY)
	:: true -> n.retry = k
#else
	:: v != recovered -> n.retry = k
	:: else
#endif
	fi;
	n.presenter = ua;
	n.last = (at > s.last -> at : s.last);	/* asked of TABLE alone, where clocks are set back */
	if
	:: g == 0 -> n.window = NONE; n.floor = 0	/* a code opens no window */
#if !defined(FAULT_RECOVER_OPENS_NO_WINDOW)
	:: g > 0 && (v == recovered || s.window == NONE || LEEWAY == 0 || at >= s.window + LEEWAY) ->
#else
	:: g > 0 && v != recovered && (s.window == NONE || LEEWAY == 0 || at >= s.window + LEEWAY) ->
#endif
		n.window = at; n.floor = g
	:: else
	fi
}

inline decide(pop)
{
	copy(n, s);
	changed = false;
	v = unanswered;
	if
#if defined(FAULT_BAD_PROOF_IS_REUSE)
	:: POSSESSION && !pop -> v = reuse; n.live = false; changed = s.live
#elif !defined(FAULT_PROOF_NOT_CHECKED)
	:: POSSESSION && !pop -> v = invalid_proof
#endif
#if !defined(FAULT_STATUS_FORGOTTEN)
	:: !s.live && !(POSSESSION && !pop) -> v = revoked
#endif
	:: else ->
		if
		:: g == s.head -> v = rotated; advance()
		:: g > s.head ->
#if !defined(FAULT_RECOVER_IS_REUSE)
			v = recovered; advance()
#else
			v = reuse; n.live = false; changed = true
#endif
		:: else ->
			v = reuse;
			if :: v == reuse && by_retry -> v = repeated_retry :: else fi;
			if :: v == reuse && refresh_token && by_possession && pop -> v = repeated_possession :: else fi;
			if :: v == reuse && refresh_token && above_floor && in_window && presenter_fits -> v = repeated_window :: else fi;
			if :: v == reuse && refresh_token && own_leeway && presenter_fits -> v = repeated_window :: else fi;
			if :: v == reuse && refresh_token && until_used && presenter_fits -> v = repeated_until_used :: else fi;
			if
#if defined(FAULT_NO_REVOKE)
			:: false
#elif defined(FAULT_CODE_REPLAY_FORGIVEN)
			:: v == reuse && g > 0 -> n.live = false; changed = true
#else
			:: v == reuse -> n.live = false; changed = true
#endif
#if defined(FAULT_SLIDING_WINDOW)
			:: v == repeated_window && n.window != at -> n.window = at; changed = true
#endif
#if defined(FAULT_OWN_LEEWAY_SLIDES)
			:: v == repeated_window && g + 1 == s.head && n.last != at -> n.last = at; changed = true
#endif
#if defined(FAULT_REPEAT_ROTATES)
			:: accepted(v) -> n.head = s.head + 1; changed = true
#endif
#if defined(FAULT_KEY_WORKS_ONCE)
			:: v == repeated_retry -> n.retry = NONE; changed = true
#endif
			:: else
			fi
		fi
	fi
}

#ifdef TABLE

/* Prints what the rules say to every small question; model_test.go asks package family the same. */
active proctype Table()
{
	Row s, n;
	byte x, g, k, at, ua;
	mtype v;
	bool changed;

	atomic {
		select(x : 0..3); s.head = x;
		select(x : 0..2); s.floor = x;
		select(x : 0..2); s.window = x;
		select(x : 0..3); s.last = x;
		select(x : 0..1); s.retry = x;
		/* An ended family has one answer. */
		if :: s.live = true :: s.floor == 0 -> s.live = false fi;
		if :: s.presenter = 0 :: s.presenter = 1 fi;
		select(at : 1..4);
		select(g : 0..4);
		select(k : 0..2);
		if :: ua = 0 :: ua = 1 fi;
		decide(1);
		printf("question %d %d %d %d %d %d %d at %d token %d key %d by %d answer %d %d %d %d %d %d %d ",
			s.live, s.head, s.floor, s.window, s.last, s.retry, s.presenter, at, g, k, ua,
			n.live, n.head, n.floor, n.window, n.last, n.retry, n.presenter);
		printm(v); printf("\n")
	}
}

#else

/* ---- the server's store, its replica, its clock ---- */

Row st;
byte ticks = 1;
#if LOSSES
Row replica;
byte losses;
#endif

/* ---- the owner's store, shared by the tabs ---- */

typedef Kept {
	byte token;	/* a generation */
	byte key;	/* NONE: not drawn yet */
	byte sent;	/* when this token was first sent; kept only where an assumption needs it */
	byte saved	/* when it was saved; likewise */
};
Kept kept;
bit locked;

/* ---- what really happened; nobody in the story reads it ---- */

bool ended;			/* a reuse was seen, or a revocation acknowledged */
bool used[GENS + 2];		/* the generation was accepted as head */
byte retired[GENS + 2];		/* when */
byte keyed[GENS + 2];		/* with which key */
byte handed[GENS + 2];		/* the token given out for the generation; 0: none yet */
bool copied;			/* the thief has been there */
byte stolen;			/* what he found */
byte visits;			/* generations >= stolen that the owner has presented since, and was served */
byte visited;			/* the last of them */
#if defined(FAULT_RANDOM_TOKEN)
byte minted = 1;
#define mint()	minted++
#else
#define minted	1		/* a token is a function of (key, family, generation) */
#define mint()	skip
#endif

/* The properties. Hidden: computed and asserted in one step, no part of the state. */
hidden byte honest_client_revoked;
hidden byte second_successor;
hidden byte tokens_differ;
hidden byte served_after_the_end;
hidden byte served_without_excuse;
hidden byte thief_overstays;
hidden byte excuse;

/* Judges the request at the moment it took effect: its commit, or its load if it changed nothing. */
inline judge(pop, by)
{
	/* Heard in a replayed example, and in a search that was compiled with -DPRINTF. */
	if
	:: by == owner -> printf("at %d owner presents %d, key %d -> ", at, g, k)
	:: else -> printf("at %d thief presents %d, key %d -> ", at, g, k)
	fi;
	printm(v); printf(", head %d\n", n.head);
	/* §2 in terms of what happened, not of what the row remembers. */
	excuse = !used[g] ||
		(k != NONE && k == keyed[g] && !used[g + 1]) ||
		(g > 0 && POSSESSION && pop && !STRICT) ||
		(g > 0 && at < retired[g] + LEEWAY) ||
		(g > 0 && UNTIL_USED && !used[g + 1]);

	served_after_the_end = accepted(v) && ended;
	assert(!served_after_the_end);
	thief_overstays = by == thief && accepted(v) && visits >= BOUND;
	assert(!thief_overstays);
#if LOSSES == 0
	/* A store that lost commits lost the memory of what was used with them. */
	second_successor = accepted(v) && n.head != s.head && used[g];
	assert(!second_successor);
	served_without_excuse = accepted(v) && !excuse;
	assert(!served_without_excuse);
	ended = ended || (!excuse && v != invalid_proof);
#endif
	honest_client_revoked = HONEST && by == owner && (v == reuse || v == revoked);
	assert(!honest_client_revoked);
	if
	:: accepted(v) ->
		if
		:: handed[n.head] == 0 -> handed[n.head] = minted
		:: else -> tokens_differ = handed[n.head] != minted; assert(!tokens_differ)
		fi;
		mint();
		if
		:: v == rotated || v == recovered -> used[g] = true; retired[g] = at; keyed[g] = k
		:: else
		fi;
		if
		:: by == owner && copied && g >= stolen && (visits == 0 || g > visited) ->
			visits++; visited = g
		:: else
		fi
	:: v == reuse -> ended = true
	:: else
	fi
}

/* A request reaches a node: load and decide, then commit with compare-and-swap; on conflict
 * load again. Nodes interleave between the two. A request that takes effect at or after
 * deadline is one that the configuration rules out. */
inline serve(pop, by, deadline)
{
	v = unanswered;
	do
	:: v == unanswered ->
		d_step {
			at = ticks;
			copy(s, st);
			decide(pop);
			if
			:: deadline != NEVER && at >= deadline -> v = undelivered; changed = false
			:: else ->
				if
				:: !changed -> judge(pop, by)
				:: else
				fi
			fi
		}
		if
		:: changed ->
			d_step {
				if
#if defined(FAULT_NO_COMPARE_AND_SWAP)
				:: true ->
#else
				/* Every commit raises the head or lowers the status: they stand for the
				 * version, which may come back only when commits were lost. */
				:: st.head == s.head && st.live == s.live ->
#endif
					copy(st, n); judge(pop, by)
				:: else -> v = unanswered
				fi
			}
		:: else
		fi
	:: else -> break
	od
}

init
{
	d_step {
		st.live = true; st.head = FIRST; kept.token = FIRST;
		kept.saved = NONE;
#if LOSSES
		copy(replica, st);
#endif
		handed[FIRST] = minted; mint()
	}
	atomic {
		run Tab(0);
#if TABS > 1
		run Tab(1);
#endif
#if TICKS > 1
		run Clock();
#endif
#if LATE
		run Network();
#endif
#if REVOKER
		run Revoker();
#endif
#if LOSSES
		run Replica();
#endif
#if THIEF
		run Thief();
#endif
	}
}

proctype Clock()
{
	do
	:: ticks < TICKS -> ticks++
	:: else -> break
	od
}

#if PROMPT
#define in_time		(kept.sent == NONE || ticks < kept.sent + LEEWAY)
#define deadline_of	kept.sent + LEEWAY
#else
#define in_time		true
#define deadline_of	NEVER
#endif
#if SPACED
#define old_enough	(kept.sent != NONE || kept.saved == NONE || ticks >= kept.saved + LEEWAY)
#else
#define old_enough	true
#endif

/* A network that keeps a request after its sender gave up, and drops the answer. */
#if LATE
typedef Mail { bool pending; byte g; byte k; byte deadline };
Mail mail;

proctype Network()
{
	Row s, n;
	byte g, k, at, deadline;
	bit ua;
	mtype v;
	bool changed;

	do
	:: d_step {
		mail.pending -> g = mail.g; k = mail.k; deadline = mail.deadline;
		mail.pending = false; mail.g = 0; mail.k = 0; mail.deadline = 0
	   }
	   serve(1, owner, deadline);
	   atomic { forget(); deadline = 0 }
	:: break
	od
}
#endif

/* One tab (or process, or one start of the app) of the owner. Whatever is lost or crashes,
 * it begins again from the store; so a lost request is also a crash before sending, and a lost
 * response also a crash before saving. It stops at any moment. */
proctype Tab(bit me)
{
	Row s, n;
	byte g, k, at, deadline;
	bit ua;
	mtype v;
	bool changed;

	do
	:: d_step {
		!(LOCK && locked) && st.head < GENS && kept.token < GENS && in_time && old_enough ->
		locked = LOCK;
		g = kept.token;
		if
		:: !KEY -> k = NONE
#if defined(FAULT_KEY_PER_ATTEMPT)
		:: KEY -> kept.key = (kept.key == 2 * g + 1 -> 2 * g + 2 : 2 * g + 1); k = kept.key
#elif defined(FAULT_KEY_PER_TAB)
		:: KEY -> k = 2 * g + 1 + me
#else
		/* Drawn once per token, and in the store before anything is sent. */
		:: KEY -> kept.key = (kept.key == NONE -> 2 * g + 1 : kept.key); k = kept.key
#endif
		fi;
#if PROMPT || SPACED
		if :: kept.sent == NONE -> kept.sent = ticks :: else fi;
#endif
		deadline = deadline_of
	   }
	   if
	   :: true		/* the request is lost */
#if LATE
	   :: d_step { !mail.pending -> mail.pending = true; mail.g = g; mail.k = k; mail.deadline = deadline }
#endif
	   :: serve(1, owner, deadline);
	      if
	      :: true		/* the response is lost */
	      :: d_step {
			accepted(v) ->
			if
#if defined(FAULT_TAB_OVERWRITES)
			:: true ->
#else
			/* Only the answer to what the store still holds may replace it. */
			:: kept.token == g ->
#endif
				kept.token = n.head; kept.key = NONE;
#if PROMPT || SPACED
				kept.sent = NONE; kept.saved = ticks
#endif
			:: else
			fi
		 }
	      fi
	   fi;
	   d_step { locked = 0; forget(); deadline = 0 }
	:: break
	od
}

#if THIEF
/* Copies the owner's store once, at any moment; then presents what he found or what he got for
 * it, as often and whenever he likes. */
proctype Thief()
{
	Row s, n;
	byte g, k, at, newest, key;
	bit ua;
	mtype v;
	bool changed;

	d_step {
		copied = true; stolen = kept.token; newest = kept.token;
		key = (THIEF == 2 -> kept.key : NONE)
	}
	do
	:: st.head < GENS ->
		if
		:: g = stolen
		:: newest != stolen -> g = newest
		fi;
		if
		:: k = THIEFS
		:: key != NONE -> k = key
		fi;
		ua = (DISGUISE -> 0 : 1);
		serve(0, thief, NEVER);
		atomic {
			if
			:: accepted(v) -> newest = n.head
			:: else
			fi;
			forget(); ua = 0
		}
	:: break
	od
}
#endif

#if REVOKER
proctype Revoker()
{
	d_step { st.live = false; ended = true }
}
#endif

#if LOSSES
/* An asynchronous replica: follows when it likes, and is promoted with what it has. */
proctype Replica()
{
	do
	:: d_step { copy(replica, st) }
	:: d_step { losses < LOSSES -> copy(st, replica); losses++ }
	:: break
	od
}
#endif

#endif
