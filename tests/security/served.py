"""A page in a process of its own, with a memory limit, that writes down which files it opens.

    python served.py CHECKPOINT PORT OPENED

SIGUSR1 collects garbage. OPENED gets a line per file, each once.
"""

import gc
import os
import resource
import signal
import sys
import threading

MEMORY = 12 * 2**30  # addresses: torch and its threads reserve several GiB of them before anything is asked


def watch_files(log: str) -> None:
    """Write the path of every file that is opened, once, to a log."""
    seen: set[str] = set()
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, arguments: tuple) -> None:
        if event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
            path = os.fsdecode(arguments[0])
            if path not in seen:
                seen.add(path)
                os.write(out, path.encode("utf-8", "replace") + b"\n")

    sys.addaudithook(hook)


def main(checkpoint: str, port: str, log: str) -> None:
    watch_files(log)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    signal.signal(signal.SIGUSR1, lambda *_: gc.collect())
    from rcdm.diffusion.memory import keep_freed_memory

    keep_freed_memory()  # as `rcdm serve` does, before gradio is there
    from rcdm.ui.engine import Engine
    from rcdm.ui.page import launch
    from rcdm.ui.settings import Settings

    launch(
        Engine(Settings(checkpoint=checkpoint, port=int(port), jobs=0, network_mib=10), device="cpu"),
        prevent_thread_lock=True,
    )
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
