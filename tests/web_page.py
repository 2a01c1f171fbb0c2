"""The page's server in a thread of the tests, a client of it, and streams of events."""

import io
import json
import time
from contextlib import contextmanager
from threading import Thread

import httpx
import numpy as np
from PIL import Image

from convolith.web.app import Server, application
from convolith.web.server import listen, serving

TOKEN = "t" * 43


@contextmanager
def served(load=None, name=None, **options):
    """Yield a client of a server, whose state it has as `client.server`."""
    listening, state = listen(), Server(load, name)
    port = listening.getsockname()[1]
    server = serving(application(state, token=TOKEN, port=port, **options), state.slot.close)
    thread = Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    headers = {"authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", headers=headers, timeout=60, trust_env=False) as client:
        client.server, client.port = state, port
        yield client
    server.should_exit = True
    thread.join(10)
    listening.close()
    assert not thread.is_alive()


def events(client, path, request):
    """Return the events of a stream, by name; of several with one name, the list."""
    with client.stream("POST", path, json=request) as answer:
        assert answer.status_code == 200, answer.read()
        return [json.loads(line) for line in answer.iter_lines()]


def named(found, name):
    return [event for event in found if event["event"] == name]


def last(found, name):
    return named(found, name)[-1]


def png(array, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, "PNG", **options)
    return stream.getvalue()


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def sent(client, body):
    """Upload a picture and return its identifier."""
    answer = client.put("/api/picture", content=body)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def until(condition, seconds=5.0):
    """Wait until a condition holds; return how long it took."""
    start = time.perf_counter()
    while not condition():
        assert time.perf_counter() - start < seconds
        time.sleep(0.005)
    return time.perf_counter() - start
