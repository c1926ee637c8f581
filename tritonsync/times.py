"""How long anything may wait: every time constant of the project, in seconds.

Use them as `times.NAME`, at the moment of the wait. What a user may set instead stands in `settings.py`.

Imports: nothing.
"""

from __future__ import annotations

# ---- one request to the bucket -----------------------------------------------------------------------------------

#: For a connection, where the client lets us say so.
CONNECT_S = 3.0
#: Without a single byte, where the client lets us say so.
READ_S = 10.0
#: For one call with all its repetitions, when the caller names no other limit.
CALL_S = 60.0
#: One attempt to read or list gets half of the time that is left, and at least so long.
READ_ATTEMPT_S = 15.0
#: For one attempt to create an object; large bodies get more, at `UPLOAD_BYTES_PER_S`.
UPLOAD_ATTEMPT_S = 15.0
#: Bytes per second (no time, but it makes one) that an upload may count on.
UPLOAD_BYTES_PER_S = 1e6
#: The longest first pause before a repetition; it doubles each time, and each pause is drawn at random below it.
PAUSE_S = 0.2
#: The longest pause before a repetition at all.
MAX_PAUSE_S = 3.0
#: A bucket that failed several times in a row is left alone for so long.
BREAKER_PAUSE_S = 30.0
#: A request that nobody waits for any more and that still makes progress is cut after so long, where our own deadline
#: cannot end it.
ABANDONED_S = 3600.0
#: For the end of one connection.
CLOSE_S = 1.0

# ---- a program that waits for the bucket -------------------------------------------------------------------------

#: What a process may lose in all by waiting in vain; `TRITONSYNC_BUDGET_S` changes it.
BUDGET_S = 20.0
#: What the upload of the rest may take at exit; `TRITONSYNC_FLUSH_S` changes it.
FLUSH_S = 30.0
#: No wait that a user sets is longer; clocks and locks have limits of their own.
MAX_S = 86_400.0
#: A fork waits at most so long for a background thread that imports. Importing s3fs and making its first client takes
#: half a second.
FORK_GATE_S = 3.0
#: A process that does not run its signal handlers any more is ended without them after so long.
STUCK_S = 5.0

# ---- background work of a program ---------------------------------------------------------------------------------

#: For a fetch that nobody waits for yet.
BACKGROUND_S = 60.0
#: A kernel that comes ahead with others is waited for at most so long, once a process; then the bucket is asked for
#: each that is not here yet. To fetch all of a usual program takes less.
AHEAD_S = 5.0
#: For one upload.
UPLOAD_S = 120.0
#: A random pause of at most so long before a writer looks whether its bundle is there: of a hundred workers that start
#: cold together, most then find the bundle of the first.
HERD_S = 0.5
#: Autotuning runs in the first calls after a compile; so much later its results are looked for.
AUTOTUNED_AFTER_S = 20.0
#: After so long an upload that met a bucket in trouble is tried once more: longer than `BREAKER_PAUSE_S`.
RETRY_UPLOAD_S = 35.0
#: A cache folder of another library in which nothing has changed for so long is published.
FOLDER_QUIET_S = 5.0
#: After it was, it is left alone for so long, but at the end of the process.
FOLDER_PAUSE_S = 60.0
#: The list of a workload that is older than this is written anew by the next run that uses something of it, though
#: nothing in it has changed: to `gc --older-than`, what is in use must not look as if nobody needed it.
RENEW_LIST_S = 7 * 86_400.0
#: What looked damaged is looked at again after so long, before another generation is written for it.
SECOND_LOOK_S = 0.5

#: For another process of this host that adds its counters to the same file.
METRICS_LOCK_S = 2.0

# ---- commands ----------------------------------------------------------------------------------------------------

#: For a request of a command with its repetitions: it is asked to get something done, so it is patient.
COMMAND_S = 300.0
#: The same for `doctor`, which is to say soon that nobody answers.
DOCTOR_S = 15.0

# ---- other processes of this host ---------------------------------------------------------------------------------

#: For one that fetches the same bundle, before it is fetched here too.
LOCK_S = 15.0
#: For all locks that were not to be had, in one process.
LOCKS_S = 30.0
#: What is younger than this no command takes away as unused: its writer may still be at it.
GRACE_S = 3600.0
#: What a list names that is younger than this nothing has taken away: half of `GRACE_S`, as clocks differ.
YOUNG_LIST_S = 1800.0
#: A pack without a manifest is taken for that of another writer at work, and used, while it is younger. Well below
#: `GRACE_S`: it must not be one that is about to be taken away.
LONE_PACK_S = 300.0

# ---- folders -----------------------------------------------------------------------------------------------------

#: A kernel folder that is not finished is taken for abandoned when nothing in it has changed for so long.
SETTLED_AFTER_S = 600.0
#: Temporary files younger than this may still be in use.
STALE_AFTER_S = 3600.0
