/*
 * The emergency word: any number of trippers, one resetter, gates that read it. README.md says what is modelled
 * and what is assumed. Code: trip, reset_emergency and emergency_word of shm/control.py.
 *
 * Every BUG_* is one mistake that the model must find; tests/test_spin_models.py tries them one by one.
 */

#ifndef SOURCES
#define SOURCES 2
#endif
#ifndef TRIPS
#define TRIPS 2            /* of each source */
#endif
#ifndef RESETS
#define RESETS 3           /* attempts of each resetter */
#endif

#define BITS ((1 << SOURCES) - 1)
#define ONE_TRIP (1 << SOURCES)
#ifdef BUG_COUNT_OF_ONE_BIT
#define WORD_MASK (2 * ONE_TRIP - 1)
#else
#define WORD_MASK 255
#endif
#ifdef BUG_TWO_RESETTERS
#define RESETTERS 2
#else
#define RESETTERS 1
#endif

byte word;                 /* shared: low bits one a source, above them the count of trips; 0 lets trading go on */
bool pressed[SOURCES];      /* what a source watches: the pressed button, the broken limit */

/* Ghosts: seen by the properties alone. */
bool begun;                /* some trip's first instruction is done, and no reset came after */
bool landed[SOURCES];      /* the source's trip has returned, and no reset came after */
bool missed[RESETTERS];    /* some trip's first instruction is younger than the resetter's look at the word */
byte checked[RESETTERS];   /* bits: the resetter has found the cause gone, and the source has not tripped since */

/* --- shm/control.py: trip ----------------------------------------------------------------------------------------- */

inline add_to_count() {
    word = (word + ONE_TRIP) & WORD_MASK
}

inline set_bit() {
    word = word | (1 << me)
}

inline note_first_instruction() {
    begun = true;
    missed[0] = true;
    missed[RESETTERS - 1] = true;
    checked[0] = checked[0] & ~(1 << me);
    checked[RESETTERS - 1] = checked[RESETTERS - 1] & ~(1 << me)
}

proctype source(byte me) {
    byte left = TRIPS;
#ifdef BUG_TRIP_NOT_ATOMIC
    byte loaded;
#endif
end:
    do
    :: left > 0 ->
        pressed[me] = true;
#if defined(BUG_NO_COUNT)
        atomic { set_bit(); note_first_instruction(); landed[me] = true };
#elif defined(BUG_BIT_BEFORE_COUNT)
        atomic { set_bit(); note_first_instruction() };
        atomic { add_to_count(); landed[me] = true };
#elif defined(BUG_TRIP_NOT_ATOMIC)
        loaded = word;
        atomic { word = (loaded + ONE_TRIP) & WORD_MASK; note_first_instruction(); loaded = 0 };
        atomic { set_bit(); landed[me] = true };
#else
        atomic { add_to_count(); note_first_instruction() };
        if
        :: atomic { set_bit(); landed[me] = true }
        :: pressed[me] = false; break        /* killed between its two instructions */
        fi;
#endif
        pressed[me] = false;                 /* the cause goes away, the trip stays */
        left--
    od
}

/* --- the control plane: see, check, compare and exchange ---------------------------------------------------------- */

inline check_causes() {
    cause = 0;
    do
    :: cause < SOURCES ->
        if
        :: pressed[cause] -> may_reset = false
        :: else -> checked[me] = checked[me] | (1 << cause)
        fi;
        cause++
    :: else -> break
    od
}

inline succeed() {
    assert(!missed[me]);                     /* no trip after the look was lost */
    cause = 0;
    do
    :: cause < SOURCES ->
        assert(!landed[cause] || (checked[me] & (1 << cause)));      /* nothing was cleared that was not checked */
        landed[cause] = false;
        cause++
    :: else -> break
    od;
    begun = false
}

proctype resetter(byte me) {
    byte left = RESETS;
    byte seen, cause;
    bool may_reset;
end:
    do
    :: atomic { left > 0 && word != 0 -> left--; may_reset = true };
#ifdef BUG_CHECK_BEFORE_LOOK
        check_causes();
        atomic { seen = word; missed[me] = false };
#else
        atomic { seen = word; missed[me] = false };
        check_causes();
#endif
        if
        :: !may_reset
        :: else ->
#ifdef BUG_COMPARE_WITH_A_NEW_LOAD
            seen = word;
#endif
            if
#if defined(BUG_RESET_BY_STORE)
            :: atomic { true -> word = 0; succeed() }
#elif defined(BUG_CLEAR_THE_BITS_SEEN)
            :: atomic { true -> word = word & ~(seen & BITS) & BITS; if :: word == 0 -> succeed() :: else fi }
#elif defined(BUG_COMPARE_BITS_ONLY)
            :: atomic { (word & BITS) == (seen & BITS) -> word = 0; succeed() }
            :: (word & BITS) != (seen & BITS)
#else
            :: atomic { word == seen -> word = 0; succeed() }
            :: word != seen
#endif
            fi
        fi;
        atomic { seen = 0; cause = 0; may_reset = false; missed[me] = false; checked[me] = 0 }
    od
}

/* --- what holds in every state ------------------------------------------------------------------------------------ */

#ifdef BUG_GATE_LOOKS_AT_BITS
#define GATE_OPEN ((word & BITS) == 0)
#else
#define GATE_OPEN (word == 0)
#endif
#define STOPPED_ONCE_BEGUN (!begun || !GATE_OPEN)
#define BIT_STAYS(k) (!landed[k] || (word & (1 << k)) != 0)

proctype monitor() {
end:
    if
    :: atomic { !STOPPED_ONCE_BEGUN -> assert(STOPPED_ONCE_BEGUN) }
    :: atomic { !BIT_STAYS(0) -> assert(BIT_STAYS(0)) }
    :: atomic { !BIT_STAYS(1) -> assert(BIT_STAYS(1)) }
    fi
}

init {
    atomic {
        byte number = 0;
        do
        :: number < SOURCES -> run source(number); number++
        :: else -> break
        od;
        number = 0;
        do
        :: number < RESETTERS -> run resetter(number); number++
        :: else -> break
        od;
        number = 0;
        run monitor()
    }
}
