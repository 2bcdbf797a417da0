"""A server with the demo model for each session of tests, and what its tests ask about."""

import base64
import json
import os
import pathlib
import re
import subprocess
import time
import urllib.request

import pytest

HELDOUT = pathlib.Path(__file__).parents[2] / "demo-model" / "heldout"
CASES = {case["id"]: case for case in map(json.loads, (HELDOUT / "cases.jsonl").read_text().splitlines())}


class Server:
    """`medgemma serve demo` on a free port of this machine."""

    def __init__(self, *arguments: str):
        command = [os.environ["MEDGEMMA"], "serve", "demo", "--port", "0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        said = ""
        for line in self.process.stderr:
            said += line
            if line.startswith("Ready"):
                break
        else:
            raise RuntimeError(f"the server ended: {said}")
        self.url = re.search(r"http://[\d.]+:\d+", said)[0]

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"{self.url}/metrics") as response:
            return float(re.search(rf"^{re.escape(name)} (.+)$", response.read().decode(), re.M)[1])

    def wait_until_idle(self) -> None:
        """Until nothing is computed: what a client left must end, long before it would have been written."""
        until = time.monotonic() + 10
        while self.metric("medgemma_requests_running") + self.metric("medgemma_requests_waiting") > 0:
            assert time.monotonic() < until, "a request goes on that nobody waits for"
            time.sleep(0.02)

    def end(self) -> None:
        self.process.terminate()
        assert self.process.wait(40) == 0


@pytest.fixture(scope="session")
def server():
    server = Server()
    yield server
    server.end()


@pytest.fixture
def start(tmp_path):
    """Starts further servers, with options."""
    begun = []

    def start(*arguments: str) -> Server:
        begun.append(Server(*arguments))
        return begun[-1]

    yield start
    for server in begun:
        server.end()


@pytest.fixture
def keyed(start, tmp_path):
    """A server that asks for the key `a-key-of-the-tests`."""
    (tmp_path / "keys").write_text("a-key-of-the-tests\n")
    return start("--keys", str(tmp_path / "keys"))


def picture(name: str) -> str:
    """A held-out picture in base64."""
    return base64.b64encode((HELDOUT / "images" / name).read_bytes()).decode()


def messages(id: str) -> list[dict]:
    """A held-out case as OpenAI's messages."""
    turns = []
    for turn in CASES[id]["messages"]:
        content = turn["content"]
        if not isinstance(content, str):
            content = [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture(part['image'])}"}}
                if part["type"] == "image"
                else part
                for part in content
            ]
        turns.append({"role": turn["role"], "content": content})
    return turns


# A pixelled chest with an opacity, and a question that the demo model answers with "yes".
PRESENCE = "presence-002"
CHOICE = "choice-001"
TALK = [{"role": "user", "content": "Hello!"}]
