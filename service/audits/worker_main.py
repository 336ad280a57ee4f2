"""`python -m service.audits.worker_main JOB PRIORITY TASK`: a process that works beside serving.

At priority `low` it steps behind serving, but never starves. It ends with its parent, and writes
what it has to say to standard output, one JSON object a line. It keeps nothing: its parent does.
"""

import os
import sys
import threading
from contextlib import suppress
from pathlib import Path

NICENESS = 1
"""Nearly half of a core that something else wants as well, and all of one that nothing wants. With
SCHED_IDLE, or at 19, it would be a hundredth: on a machine that is busy for long no audit would
ever end, and without privilege a process cannot be raised again. At 3 it took five times as long
as on a quiet machine."""


def main() -> None:
    """The whole life of a worker."""
    job, priority, task = sys.argv[1:]
    if priority == "low":
        _step_back()
    # The service must outlive a worker that needs too much memory.
    _write("/proc/self/oom_score_adj", "1000")
    threading.Thread(target=_end_with_parent, args=(sys.stdin.fileno(),), daemon=True).start()
    # What libraries print must not end up between the messages.
    messages = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def send(message: bytes) -> None:
        messages.write(message + b"\n")
        messages.flush()

    # Imported late: loading torch takes seconds of processor time, which serving may want.
    if job == "audit":
        from service.audits.work import run
    else:
        from service.audits.uploads.upload_work import run
    from fend.errors import FendError
    from service.audits.messages import Failed

    try:
        run(task, send)
    except FendError as error:
        send(Failed.of(error).model_dump_json().encode())


def _step_back() -> None:
    """Take the smaller part of what others want too. Needs no privilege."""
    os.nice(NICENESS)
    if sys.platform == "linux":
        with suppress(OSError):  # a sandbox may forbid it; being nice is all we can do then
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        # Many kernels share out time between sessions first, whatever their processes' rank.
        if os.getsid(0) == os.getpid():  # it is ours alone
            _write("/proc/self/autogroup", str(NICENESS))


def _write(path: str, text: str) -> None:
    with suppress(OSError):  # not on every system
        Path(path).write_text(text)


def _end_with_parent(parent: int) -> None:
    """Standard input, which the parent keeps open and never writes to, closes when it ends."""
    while os.read(parent, 1):
        pass
    os._exit(1)


if __name__ == "__main__":
    main()
