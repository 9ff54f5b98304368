/*
 * Word, modes, latch and reset: a source that trips, a supervisor that may die between any two of its steps, a machine
 * that may lose its memory, an operator who resets, a kill switch, and a gate that lets orders out. README.md says what
 * is modelled and what is assumed. Code: procs/control_plane.py, procs/control_requests.py, engine/safety/modes.py,
 * procs/killswitch.py.
 *
 * Every BUG_* is one mistake that the model must find; tests/test_spin_models.py tries them one by one.
 */

#ifndef TRIPS
#define TRIPS 3
#endif
#ifndef DEATHS
#define DEATHS 1           /* of the supervisor */
#endif
#ifndef REBOOTS
#define REBOOTS 1
#endif
#ifndef RESETS
#define RESETS 2           /* attempts */
#endif

#define NORMAL 0
#define PAUSE 1
#define EMERGENCY 2
#define NO_MEMORY 3

/* What the kill switch acknowledges: the word and how many resets came before it. Without them a word comes back. */
#ifdef BUG_WORDS_COME_BACK
#define TOKEN word
#else
#define TOKEN (word + 16 * resets)
#endif

/* In shared memory: gone with a reboot. There is one source, so the word is the count of trips since the last reset. */
byte word;
byte mode_word = NORMAL;
byte resets;               /* raised after an exchange, and by a supervisor that adopts */
byte switch_epoch;         /* the token for which the kill switch has found that nothing rests */
byte switch_done;          /* the same in the kill switch's own memory */
bool resting;              /* an order rests at the venue */

/* On disk. */
byte latch = NORMAL;

/* What the source watches. */
bool pressed;
#ifdef BUG_OLD_COMPARISON
bool compared;             /* ledger and venue were found equal, whenever that was */
#endif

/* The supervisor's own memory: gone when it dies. */
byte mode = NORMAL;
byte handled;              /* the emergency word that it has dealt with */
bool acknowledged;
byte seen;                 /* the word at the beginning of a reset */
bool may_reset;

/* Ghosts: seen by the properties alone. */
bool must_stop;            /* a trip is not yet reset: nothing may leave */
bool kept;                 /* ... and the latch was written after the last trip */
bool was_acknowledged;     /* after the last trip */
bool was_compared;         /* after the last trip */
bool may_trade = true;     /* since the last reset the operator has asked for NORMAL */
byte trips_left = TRIPS;
byte deaths_left = DEATHS;
byte reboots_left = REBOOTS;
byte boots;
byte resets_left = RESETS;

/* --- who trips ---------------------------------------------------------------------------------------------------- */

proctype source() {
end:
    do
    :: atomic {
           trips_left > 0 -> trips_left--; pressed = true; word++;
           must_stop = true; kept = false; was_acknowledged = false; was_compared = false
       };
       pressed = false
    od
}

/* --- the supervisor ----------------------------------------------------------------------------------------------- */

inline forget() {
    mode = NORMAL; handled = 0; acknowledged = false; seen = 0; may_reset = false
}

inline reboot() {
    /* A trip acts first and is kept right after: of one that was not kept yet nothing is known afterwards. */
    if
    :: !kept -> must_stop = (latch == EMERGENCY); kept = must_stop
    :: else
    fi;
    boots++; word = 0; resets = 0; mode_word = NO_MEMORY; switch_epoch = 0; switch_done = 0; resting = false; was_compared = false
}

/* It is killed here, or the machine is, or it goes on. A successor knows memory and disk alone. */
#define MAY_DIE \
    if \
    :: atomic { deaths_left > 0 -> deaths_left--; forget(); goto adopt } \
    :: atomic { reboots_left > 0 -> reboots_left--; forget(); reboot(); goto boot } \
    :: true \
    fi

inline look_at_the_word() {
    if
    :: atomic {
           word != handled -> handled = word; mode = EMERGENCY;
#ifndef BUG_OLD_ACKNOWLEDGEMENT
           acknowledged = false
#endif
       };
       mode_word = EMERGENCY;
       MAY_DIE;
#ifdef BUG_TRIP_IS_NOT_KEPT
       kept = (must_stop && word == handled);
#else
       atomic { latch = EMERGENCY; kept = (must_stop && word == handled) };
#endif
       MAY_DIE
    :: word == handled
    fi
}

inline cleared() {
    assert(!must_stop || was_acknowledged);
    assert(!must_stop || was_compared);
    must_stop = false; kept = false; may_trade = false; handled = 0; acknowledged = false
}

proctype supervisor() {
    goto serve;

boot:                                    /* new memory, in the mode that was kept */
    atomic {
#ifndef BUG_BOOT_FORGETS_THE_LATCH
        mode = latch;
#endif
        if
        :: mode == EMERGENCY -> word++; handled = word
        :: else
        fi;
        mode_word = mode
    };
    goto serve;

adopt:                                   /* the memory of a supervisor that died */
    atomic {
        mode = latch; resets++;
        if
        :: mode == EMERGENCY && word == 0 -> word++              /* the reset was not written down: it was none */
#ifdef BUG_ADOPT_BELIEVES_THE_LATCH
        :: mode != EMERGENCY && word != 0 -> word = 0
#endif
        :: mode == NORMAL && mode_word == PAUSE -> mode = PAUSE  /* of two the safer one */
        :: else
        fi
    };
    mode_word = mode;
    goto serve;

serve:
end:
    do
    :: word != handled -> look_at_the_word()
    :: mode == EMERGENCY && word == handled && !acknowledged ->
        atomic { acknowledged = true; if :: word == handled -> was_acknowledged = true :: else fi }
    :: mode == EMERGENCY && word == handled && resets_left > 0 ->
        atomic { resets_left--; seen = word };                   /* before anything is checked */
        may_reset = !pressed;
#ifdef BUG_OLD_COMPARISON
        may_reset = may_reset && compared;
#else
        if
        :: atomic { switch_epoch == TOKEN && !resting -> was_compared = true }
        :: switch_epoch != TOKEN || resting -> may_reset = false
        fi;
#endif
        look_at_the_word();
        may_reset = may_reset && acknowledged;
#ifdef BUG_SEEN_AT_THE_EXCHANGE
        seen = word;
#endif
        if
        :: !may_reset
        :: may_reset ->
#ifdef BUG_LATCH_BEFORE_THE_EXCHANGE
            latch = PAUSE;
            MAY_DIE;
#endif
            if
#ifdef BUG_STORE_AT_THE_RESET
            :: atomic { true -> word = 0; cleared() };
#else
            :: word != seen -> goto refused
            :: atomic { word == seen -> word = 0; cleared() };
#endif
            fi;
            MAY_DIE;
            resets++;
            MAY_DIE;
#ifdef BUG_RESET_LANDS_IN_NORMAL
            mode = NORMAL;
#else
            mode = PAUSE;
#endif
            mode_word = mode;
            MAY_DIE;
            latch = mode
        fi;
refused:
        atomic { seen = 0; may_reset = false }
    :: atomic {                                                  /* the operator goes on */
           (mode == PAUSE && word == 0 && handled == 0)
           -> mode = NORMAL; may_trade = true
       };
        mode_word = NORMAL;
        MAY_DIE;
        latch = NORMAL
    od
}

/* --- kill switch, gate -------------------------------------------------------------------------------------------- */

/* A reboot ends it wherever it is; its memory goes with the rest (reboot, above). */
#define UNLESS_REBOOTED(step) \
    if \
    :: atomic { born != boots -> born = boots; acting = 0; token = 0; goto again } \
    :: atomic { born == boots -> step } \
    fi

proctype kill_switch() {
    byte acting;
    byte token;
    byte born;
again:
end:
    do
    :: atomic { TOKEN != switch_done -> born = boots };
        UNLESS_REBOOTED(token = TOKEN - word);                   /* how many resets: read before the word */
        UNLESS_REBOOTED(acting = word; token = token + acting);
        UNLESS_REBOOTED(if :: acting != 0 -> resting = false :: else fi);
        UNLESS_REBOOTED(switch_done = token; acting = 0);
        UNLESS_REBOOTED(switch_epoch = token; token = 0);
#ifdef BUG_OLD_COMPARISON
        compared = true
#endif
    od
}

proctype gate() {
end:
    do
    :: atomic {                                                  /* the last two reads before the bytes leave */
           word == 0 && mode_word == NORMAL && !resting ->
           assert(!must_stop);
           assert(may_trade);                                    /* a reset alone never trades */
           resting = true
       }
    od
}

/* --- what holds in every state ------------------------------------------------------------------------------------ */

/* Whoever reads that the switch has dealt with the word that is set finds nothing resting. */
#define SWEPT (word == 0 || switch_epoch != TOKEN || !resting)
/* A trip that was kept is on the disk until its reset. */
#define LATCHED (!must_stop || !kept || latch == EMERGENCY)

proctype monitor() {
end:
    if
    :: atomic { !SWEPT -> assert(SWEPT) }
    :: atomic { !LATCHED -> assert(LATCHED) }
    fi
}

init {
    atomic {
        run source();
        run supervisor();
        run kill_switch();
        run gate();
        run monitor()
    }
}
