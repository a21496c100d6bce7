"""One sample service in the container, and requests to it."""

from __future__ import annotations

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scripts.throwaway_postgres import free_port
from tests.library_container import NODE_MODULES

START_SECONDS = 120.0


@dataclass
class Service:
    """A sample service.

    :param environment: what is in its environment beside its ``.env``, which never overrides it.
    """

    name: str
    directory: Path
    container: str
    environment: dict[str, str]
    port: int = 0
    process: subprocess.Popen[str] | None = None

    def run(self) -> subprocess.Popen[str]:
        """Start the process, which writes its id to a file."""
        self.port = free_port()
        variables = {**self.environment, "PORT": str(self.port)}
        options = [option for name, value in variables.items() for option in ("--env", f"{name}={value}")]
        script = next(self.directory.glob("server.*js")).name
        # A link, because ECMAScript modules do not look at NODE_PATH.
        command = ["sh", "-c", f"ln -sfn {NODE_MODULES} node_modules; echo $$ > process-id; exec node {script}"]
        self.process = subprocess.Popen(
            ["docker", "exec", "--workdir", str(self.directory), *options, self.container, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def start(self) -> None:
        """Start the service and wait until it listens."""
        process = self.run()
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise AssertionError(f"{self.name} has ended: {process.communicate()[0]}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise AssertionError(f"{self.name} does not listen after {START_SECONDS} s")

    def stop(self, signal: str = "TERM") -> tuple[int, str]:
        """End the service by a signal; return its exit status and what it has printed."""
        if self.process is None:
            return 0, ""
        process, self.process = self.process, None
        if process.poll() is None:
            command = f"kill -{signal} $(cat {self.directory}/process-id)"
            subprocess.run(["docker", "exec", self.container, "sh", "-c", command], check=True)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        """Send a request; return the status and the JSON of the answer. Bytes are sent as they are."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data=data, method=method)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as response:
                return response.status, json.loads(response.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())

    def get(self, path: str) -> Any:
        """Return the answer to a GET that succeeds."""
        status, answer = self.request("GET", path)
        assert status == 200, answer
        return answer
