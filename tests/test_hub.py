"""The Hub that does not answer: seconds instead of minutes, and the local cache."""

import socket
import threading
import time

import pytest

from seme.checkpoint.hub import hub_answers
from seme.checkpoint.model_folder import locate


@pytest.fixture
def hub(monkeypatch):
    """A socket in the Hub's place: connections are made by the system, nobody answers them."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        monkeypatch.setattr("seme.checkpoint.hub._silent_since", [])
        monkeypatch.setattr("seme.checkpoint.hub.ANSWER_SECONDS", 0.3)
        yield server


@pytest.mark.usefixtures("hub")
def test_a_hub_that_never_answers_is_given_up_after_a_moment(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    start = time.monotonic()
    message = (
        r"cod is neither a folder \(.*/cod does not exist\) nor .*the Hub cannot be reached"
    )
    with pytest.raises(ValueError, match=message):
        locate("cod", revision=None, root=tmp_path)
    assert time.monotonic() - start < 3


@pytest.mark.usefixtures("hub")
def test_a_silent_hub_is_not_asked_again_at_once(monkeypatch):
    assert not hub_answers()
    start = time.monotonic()
    assert not hub_answers()
    assert time.monotonic() - start < 0.1
    monkeypatch.setattr("seme.checkpoint.hub._RETRY_SECONDS", 0)
    assert not hub_answers()
    assert time.monotonic() - start >= 0.3


def test_any_answer_is_an_answer(hub, monkeypatch):
    monkeypatch.setattr("seme.checkpoint.hub.ANSWER_SECONDS", 5)

    def refuse():
        connection, _ = hub.accept()
        with connection:
            connection.recv(10_000)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    server = threading.Thread(target=refuse)
    server.start()
    assert hub_answers()
    server.join()


def test_no_hub_at_all_is_known_at_once(hub):
    hub.close()
    assert not hub_answers()
