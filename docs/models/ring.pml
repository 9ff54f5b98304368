/*
 * Ring, checkpoint and doorbell: a producer, a stage and a sink, and a killer who may end either of the first
 * two between any two of their steps. README.md says what is modelled and what is assumed.
 *
 *   producer --in ring--> stage --out ring--> sink          follower: looks at the in ring (-DFOLLOWER)
 *
 * Code: shm/ring_kernels.py (cursors), shm/doorbell.py (sleep and wake), shm/follower.py (lapping).
 * Every BUG_* is one mistake that the model must find; tests/test_spin_models.py tries them one by one.
 */

#ifndef RECORDS
#define RECORDS 4          /* input records */
#endif
#ifndef CAPACITY
#define CAPACITY 2         /* slots of the in ring */
#endif
#define OUT_CAPACITY 2     /* slots of the out ring */
#ifndef KILLS
#define KILLS 2            /* deaths in one run, of either side */
#endif
#ifdef BUG_CHECKPOINT_TOO_RARE
#define INTERVAL (CAPACITY + 1)
#else
#define INTERVAL CAPACITY  /* a checkpoint is due after so many records at the latest */
#endif

/* --- what the stage computes: record r (from 0) causes 1, 2, 0, 1, 2, ... outputs of its state -------------------- */

#define MOST_OUTPUTS (RECORDS + 1)
#define outputs(r) ((r) % 3 == 1 -> 2 : ((r) % 3 == 2 -> 0 : 1))
#define next_state(s, r) ((2 * (s) + (r) + 1) % 8)
#define output(s, k) (2 * (s) + (k) + 1)

byte expected[MOST_OUTPUTS];
byte total;                /* how many of them there are */

/* --- shared memory: what survives a death ------------------------------------------------------------------------- */

/* In ring. The content of record r is r + 1; a slot is copied in two halves, so that it can be torn. */
byte in_low[CAPACITY], in_high[CAPACITY];
byte in_head, in_claim, in_tail;

/* Out ring: what a torn slot does is seen in the in ring. */
byte out_slot[OUT_CAPACITY];
byte out_head, out_tail;

/* Doorbell of the stage. */
byte rings;                /* the futex word */
bool sleeping;

/* State arena: two checkpoint slots. whole stands for a checksum that fits. */
typedef Checkpoint { byte number; byte state; byte in; byte out; bool whole };
Checkpoint saved[2];

/* --- the kernel of the operating system --------------------------------------------------------------------------- */

bool queued;               /* the stage is asleep in futex(FUTEX_WAIT) */
bool kill_producer, kill_stage;

/* --- ghosts: seen by the properties alone ------------------------------------------------------------------------- */

byte read_cursor;          /* the stage's private cursor */
bool owed;                 /* a record is published, its ring not finished */
bool abandoned;            /* the producer died owing a ring: the time-out of the wait pays for it */

/* --- the two sides of the in ring --------------------------------------------------------------------------------- */

#ifdef BUG_ROOM_OFF_BY_ONE
#define IN_ROOM (CAPACITY + 1)
#else
#define IN_ROOM CAPACITY
#endif

/*
 * One step is one access to shared memory together with the private work around it: nobody can see, and no death
 * can tell, what lies between private steps. A copy of many words is two steps, or as many as can matter.
 */

inline ring_bell(sleeper) {
    if
    :: atomic { sleeper -> rings++ };
       atomic { queued = false; owed = false; cursor++ }
    :: atomic { !sleeper -> owed = false; cursor++ }
    fi
}

inline write_slot() {
    in_low[cursor % CAPACITY] = cursor + 1;
    in_high[cursor % CAPACITY] = cursor + 1
}

inline claim_slot() {
    if
    :: cursor + 1 > claimed -> claimed = cursor + 1; in_claim = claimed
    :: else
    fi
}

proctype producer() {
    byte cursor, limit, claimed;
#ifdef BUG_NO_FENCE_IN_RING
    bool saw_sleeper;
#endif
start:
    {
        atomic { cursor = in_head; limit = in_tail; claimed = in_claim };
        do
        :: cursor == RECORDS -> break
        :: atomic { cursor < RECORDS && cursor - limit >= IN_ROOM && in_tail != limit ->
            limit = in_tail                  /* waiting for room is polling */
           }
        :: atomic { cursor < RECORDS && cursor - limit < IN_ROOM ->
#ifndef BUG_CLAIM_AFTER_COPY
            claim_slot()
#endif
           };
#ifndef BUG_PUBLISH_BEFORE_COPY
            write_slot();
#endif
#ifdef BUG_CLAIM_AFTER_COPY
            atomic { claim_slot() };
#endif
#ifdef BUG_NO_FENCE_IN_RING
            saw_sleeper = sleeping;          /* the load of the flag overtakes the store of the head */
#endif
#ifdef BUG_RING_BEFORE_PUBLISH
            if
            :: atomic { sleeping -> rings++ }; queued = false
            :: !sleeping
            fi;
            atomic { in_head = cursor + 1; cursor++ }
#else
            atomic { in_head = cursor + 1; owed = true };
#ifdef BUG_PUBLISH_BEFORE_COPY
            write_slot();
#endif
#ifdef BUG_NO_FENCE_IN_RING
            ring_bell(saw_sleeper)
#else
            ring_bell(sleeping)
#endif
#endif
        od
    } unless {
        atomic {
            kill_producer ->
            kill_producer = false;
            if
            :: owed -> owed = false; abandoned = true
            :: else
            fi;
            goto start
        }
    }
}

/* Copy the state to the older slot, then let the in ring forget what lies before it. */
inline checkpoint() {
#ifdef BUG_RELEASE_BEFORE_CHECKPOINT
    in_tail = cursor;
#endif
    atomic {
        number++;
#ifndef BUG_CHECKPOINT_IN_PLACE
        newest = 1 - newest;
#endif
#ifndef BUG_NO_CHECKSUM
        saved[newest].whole = false;
#endif
        saved[newest].number = number; saved[newest].in = cursor
    };
    atomic { saved[newest].state = state; saved[newest].out = out_cursor };
    atomic { saved[newest].whole = true; due = 0 };
    in_tail = cursor
}

/* Whoever looks at the head itself needs no ring for what it sees. */
inline look() {
    limit = in_head;
    abandoned = false
}

/* The newest whole slot. With none there is nothing to go on from. */
inline reload() {
    assert(saved[0].whole || saved[1].whole);
    newest = (saved[1].whole && (!saved[0].whole || saved[1].number > saved[0].number) -> 1 : 0);
    number = saved[newest].number;
    cursor = saved[newest].in;
    state = saved[newest].state;
#ifdef BUG_OUTPUT_CURSOR_FROM_HEAD
    out_cursor = out_head;
#else
    out_cursor = saved[newest].out;
#endif
    look();
    due = 0;
    part = 0;
    seen = 0;
    read_cursor = cursor
}

/* prepare_wait, the second look at the head, commit_wait. */
inline wait_for_bell() {
#ifdef BUG_NO_FENCE_IN_WAIT
    atomic { look() };                       /* the second look overtakes the store of the flag */
    seen = rings;
    sleeping = true;
#else
#ifndef BUG_COUNT_READ_LAST
    seen = rings;
#endif
#ifndef BUG_FLAG_NOT_SET
    sleeping = true;
#endif
#ifndef BUG_NO_SECOND_LOOK
    atomic { look() };
#endif
#endif
    if
    :: limit > cursor                        /* cancel_wait */
    :: limit <= cursor ->
#ifdef BUG_COUNT_READ_LAST
        seen = rings;
#endif
        atomic { queued = (rings == seen) }; /* futex compares and queues in one step */
        if
        :: !queued                           /* refused, or woken */
        :: atomic { abandoned -> abandoned = false; queued = false }
        fi
    fi;
    atomic { sleeping = false; seen = 0 }
}

#define MORE (part < outputs(cursor))
#ifdef BUG_NO_SUPPRESSION
#define NEW true
#else
#define NEW (out_cursor >= out_head)
#endif
#define OUT_ROOM (out_cursor - out_tail < OUT_CAPACITY)

proctype stage() {
    byte cursor, limit, state, number, out_cursor;
    byte seen, part, due;
    bit newest;
start:
    {
        atomic { reload() };
#ifndef BUG_NO_RELEASE_AT_RELOAD
        in_tail = cursor;                    /* the predecessor may have died just before it did */
#endif
        do
        :: atomic { cursor == RECORDS -> assert(out_head == total); break }
        :: atomic { cursor < RECORDS && limit <= cursor -> look() };
            if
            :: limit > cursor
            :: limit <= cursor -> wait_for_bell()
            fi
        :: atomic { limit > cursor ->
            assert(in_low[cursor % CAPACITY] == cursor + 1 && in_high[cursor % CAPACITY] == cursor + 1);
            state = next_state(state, cursor)
           };
            do
            :: part == outputs(cursor) -> break
#ifndef BUG_NO_SUPPRESSION
            :: atomic { MORE && out_cursor < out_head -> out_cursor++; part++ }         /* the predecessor sent it */
#endif
            :: atomic { MORE && NEW && OUT_ROOM -> out_slot[out_cursor % OUT_CAPACITY] = output(state, part) };
               atomic { out_head = out_cursor + 1; out_cursor++; part++ }
            od;
            atomic { part = 0; cursor++; read_cursor = cursor; due++ };
#ifdef BUG_RELEASE_WHAT_IS_READ
            in_tail = cursor;
#endif
            if
            :: checkpoint()
            :: due < INTERVAL
            fi
        od
    } unless {
        atomic {
            kill_stage ->
            kill_stage = false;
            queued = false;
            sleeping = false;                /* Doorbell.silence, by the supervisor */
            goto start
        }
    }
}

proctype sink() {
end:
    do
    :: atomic { out_head > out_tail ->
        assert(out_tail < total && out_slot[out_tail % OUT_CAPACITY] == expected[out_tail]);
        out_tail++
       }
    od
}

#ifdef FOLLOWER
#ifdef BUG_FOLLOWER_OFF_BY_ONE
#define REACH (CAPACITY + 1)
#else
#define REACH CAPACITY
#endif

/* A consumer in one step: who follows does not care what a stage makes of the records. */
proctype consumer() {
end:
    do
    :: atomic { in_head > in_tail -> read_cursor++; in_tail++ }
    od
}

proctype follower() {
    byte cursor, oldest, head, low, high, claim, copied, lapped;
end:
    do
    :: in_head > cursor ->
        head = in_head;
        oldest = (in_claim > CAPACITY -> in_claim - CAPACITY : 0);
#ifndef BUG_FOLLOWER_BEYOND_HEAD
        oldest = (oldest < head -> oldest : head);
#endif
        if
        :: cursor < oldest ->
            atomic {
#ifdef BUG_FOLLOWER_COUNTS_ONE
                lapped++;
#else
                lapped = lapped + (oldest - cursor);
#endif
                cursor = oldest
            }
        :: else
        fi;
        assert(cursor <= head);              /* else the ring looks broken to the follower */
        if
        :: cursor < head ->
            low = in_low[cursor % CAPACITY];
            high = in_high[cursor % CAPACITY];
            claim = in_claim;
            if
#ifdef BUG_FOLLOWER_NO_CHECK
            :: true ->
#else
            :: claim <= cursor + REACH ->
#endif
                assert(low == cursor + 1 && high == cursor + 1);
                copied++
#ifndef BUG_FOLLOWER_NO_CHECK
            :: else -> lapped++
#endif
            fi;
            cursor++
        :: else
        fi;
        assert(copied + lapped == cursor);
        atomic { oldest = 0; head = 0; low = 0; high = 0; claim = 0 }
    od
}
#endif

proctype killer() {
    byte left = KILLS;
end:
    do
    :: left > 0 && !kill_producer -> atomic { kill_producer = true; left-- }
#ifndef FOLLOWER
    :: left > 0 && !kill_stage -> atomic { kill_stage = true; left-- }
#endif
    od
}

/* What holds in every state. */
#define CURSORS_IN_ORDER (in_tail <= read_cursor && read_cursor <= in_head && in_head <= in_claim)
#define WITHIN_CAPACITY (in_claim <= in_tail + CAPACITY && out_head <= out_tail + OUT_CAPACITY)
#define NEVER_ASLEEP_OVER_DATA (!(queued && in_head > read_cursor) || owed || abandoned)

proctype monitor() {
end:
    if
    :: atomic { !CURSORS_IN_ORDER -> assert(CURSORS_IN_ORDER) }
    :: atomic { !WITHIN_CAPACITY -> assert(WITHIN_CAPACITY) }
    :: atomic { !NEVER_ASLEEP_OVER_DATA -> assert(NEVER_ASLEEP_OVER_DATA) }
    fi
}

init {
    atomic {
        byte record = 0, state = 0, part = 0;
        do
        :: record == RECORDS -> break
        :: else ->
            state = next_state(state, record);
            part = 0;
            do
            :: part == outputs(record) -> break
            :: else -> expected[total] = output(state, part); total++; part++
            od;
            record++
        od;
        record = 0; state = 0; part = 0;
        saved[0].whole = true;
        run producer();
#ifdef FOLLOWER
        run consumer();
        run follower();
#else
        run stage();
        run sink();
#ifdef BUG_REPLACE_BEFORE_KILL
        run stage();
#endif
#endif
        run killer();
        run monitor()
    }
}
