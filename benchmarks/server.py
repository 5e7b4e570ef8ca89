"""A page in a process of its own, for benchmarks and tests: started, waited for, watched, ended."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


class Server:
    """`python app.py` with options, on a free port of this machine."""

    def __init__(self, *options: str, **environment: str) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url, self.begun = f"http://127.0.0.1:{self.port}", time.monotonic()
        command = [sys.executable, str(ROOT / "app.py"), "--port", str(self.port), *options]
        path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path} | environment, stdout=subprocess.DEVNULL
        )

    def wait(self, seconds: float = 60) -> float:
        """Seconds from the start until the server answers. Raises TimeoutError or RuntimeError when it does not."""
        while time.monotonic() - self.begun < seconds:
            if self.process.poll() is not None:
                raise RuntimeError(f"The server ended with status {self.process.returncode}.")
            if self.answers():
                return time.monotonic() - self.begun
            time.sleep(0.05)
        raise TimeoutError(f"No answer within {seconds} seconds.")

    def answers(self) -> bool:
        """Whether the health check is answered."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.read() == b"ok\n")
        except OSError:
            return False

    def memory(self) -> float:
        """Resident memory in MiB (Linux)."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

    def work(self) -> float:
        """Seconds that its threads have computed so far, all together (Linux): waiting, and other programs, aside."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self, number: int = signal.SIGTERM, seconds: float = 15) -> float:
        """Send a signal; seconds until the process is gone."""
        begun = time.monotonic()
        self.process.send_signal(number)
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        return time.monotonic() - begun
