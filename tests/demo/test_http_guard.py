"""What stands before Gradio, over a real page: files, bodies, cookies."""

import http.client
import json
from urllib.parse import quote, urlsplit

import gradio_client
import pytest
from gradio_client.exceptions import AppError

from demo.blocks import build_page
from demo.environment import Environment, Limits
from demo.http_guard import MOST_JSON
from demo.run_store import RunStore
from demo.service import PageService
from demo.visitors import COOKIE, current_visitor
from tests.demo.fake_studio import FakeStudio
from tests.demo.synthetic_run import write_run

MOST_UPLOAD = 2**16


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guard")
    write_run(folder / "examples" / "first", num_frames=5, size=24)
    return RunStore(root=folder / "runs", examples=folder / "examples")


@pytest.fixture(scope="module")
def studio():
    return FakeStudio()


@pytest.fixture(scope="module")
def address(store, studio):
    environment = Environment(is_public=True, limits=Limits(upload_bytes=MOST_UPLOAD, jobs_per_visitor=1))
    service = PageService(
        preset="tiny-debug",
        store=store,
        environment=environment,
        load_studio=lambda _preset: studio,
        visitor=current_visitor,
    )
    page = build_page(service, assets=store.examples.parent)
    _, url, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, quiet=True)
    yield url
    page.close()


def ask(address, path, *, method="GET", body=None, headers=None):
    """(status, headers, body) of a request whose path is sent as it is, dots and all."""
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request(method, path, body=body, headers=headers or {})
    response = connection.getresponse()
    answer = (response.status, response.headers, response.read())
    connection.close()
    return answer


def file(path):
    return f"/gradio_api/file={quote(str(path))}"


@pytest.fixture(scope="module")
def job(store):
    """A fine-tune's folder with what is served of it and what is not."""
    folder = store.root / "finetunes" / f"20260101-000000-{'a' * 32}"
    (folder / "run" / "adapter").mkdir(parents=True)
    for name in ("job.json", "process.log", "process.json", "run/metrics.jsonl", "run/.draft", "run/adapter/lora.bin"):
        (folder / name).write_text(name)
    return folder


def test_examples_are_served_and_of_a_fine_tune_what_its_trainer_wrote(address, store, job):
    assert ask(address, file(store.examples / "first" / "video.mp4"))[0] == 200
    for name in ("run/metrics.jsonl", "run/adapter/lora.bin"):
        status, _, body = ask(address, file(job / name))
        assert (status, body.decode()) == (200, name)
    for name in ("job.json", "process.log", "process.json", "run/.draft", "run/../job.json", "run/%2e%2e/job.json"):
        assert ask(address, file(job / name))[0] == 403, name


WAYS = """
{root}/../outside  {root}/page/../../outside  {root}%2f..%2foutside  {root}/%2e%2e/outside  {root}/..%2foutside
{root}/%252e%252e/outside  {root}/..\\outside  {root}/link  {root}/linked/outside  {root}  {root}/
../../../../etc/passwd  /etc/passwd  file:///etc/passwd  app.py  demo/service.py  ~/.ssh/id_rsa
"""


@pytest.fixture
def outside(store):
    """A file beside the runs, and links that lead to it from inside."""
    path = store.root.parent / "outside"
    path.write_text("classified")
    links = {store.root / "link": path, store.root / "linked": path.parent}
    for link, target in links.items():
        link.symlink_to(target)
    yield path
    for link in links:
        link.unlink()


@pytest.mark.parametrize("way", WAYS.split())
def test_no_way_leads_out_of_the_roots(address, store, outside, way):
    for prefix in ("/gradio_api/file=", "/gradio_api/file/", "/file="):
        status, _, body = ask(address, prefix + way.format(root=store.root))
        assert status in {400, 403, 404}, (prefix, way, status)
        assert outside.read_bytes() not in body


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "https://example.org/x", "http:/example.org", "ftp://a/b"])
def test_the_server_fetches_nothing_for_anybody(address, url):
    assert ask(address, f"/gradio_api/file={url}")[0] == 403
    given = {"path": url, "meta": {"_type": "gradio.FileData"}, "url": url}
    body = json.dumps({"data": [given], "session_hash": "me", "fn_index": 0})
    status, _, answer = ask(address, "/gradio_api/queue/join", method="POST", body=body)
    assert (status, b"Send the file itself" in answer) == (400, True)


def test_what_is_sent_is_bounded(address):
    assert ask(address, "/gradio_api/queue/join", method="POST", body=b"[" * (MOST_JSON + 1))[0] == 413
    chunks = (b"x" * 65_536 for _ in range(1 + MOST_JSON // 65_536))
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    connection.request("POST", "/gradio_api/queue/join", body=chunks, encode_chunked=True)
    assert connection.getresponse().status == 413
    connection.close()


def multipart(content):
    part = b'--b\r\nContent-Disposition: form-data; name="files"; filename="a.bin"\r\n\r\n' + content + b"\r\n--b--\r\n"
    return part, {"Content-Type": "multipart/form-data; boundary=b"}


def test_uploads_are_bounded_whatever_the_request_says_of_its_length(address):
    body, headers = multipart(b"x" * 1000)
    status, _, answer = ask(address, "/gradio_api/upload", method="POST", body=body, headers=headers)
    assert (status, len(json.loads(answer))) == (200, 1)
    body, headers = multipart(b"x" * MOST_UPLOAD)
    assert ask(address, "/gradio_api/upload", method="POST", body=body, headers=headers)[0] == 413
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
    halves = (body[:40_000], body[40_000:])
    connection.request("POST", "/gradio_api/upload", body=iter(halves), headers=headers, encode_chunked=True)
    assert connection.getresponse().status >= 400
    connection.close()


def test_a_full_disk_takes_no_uploads(address, monkeypatch):
    usage = type("Usage", (), {"free": 1})
    monkeypatch.setattr("demo.http_guard.shutil.disk_usage", lambda _path: usage)
    body, headers = multipart(b"x")
    status, _, answer = ask(address, "/gradio_api/upload", method="POST", body=body, headers=headers)
    assert (status, answer) == (507, b"The server's disk is full. Try again later.")


def test_a_browser_gets_a_cookie_once_and_behind_tls_one_that_frames_keep(address):
    _, headers, _ = ask(address, "/")
    cookie = next(value for value in headers.get_all("set-cookie") if value.startswith(COOKIE))
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    _, again, _ = ask(address, "/", headers={"Cookie": cookie.split(";")[0]})
    assert not [value for value in again.get_all("set-cookie", []) if value.startswith(COOKIE)]
    _, framed, _ = ask(address, "/", headers={"x-forwarded-proto": "https"})
    framed_cookie = next(value for value in framed.get_all("set-cookie") if value.startswith(COOKIE))
    assert framed_cookie.endswith("SameSite=None; Secure; Partitioned")
    assert framed_cookie.split(";")[0] != cookie.split(";")[0]


def test_a_share_of_the_line_is_a_visitors_by_session_or_by_cookie(address, studio):
    def client(cookie=None):
        return gradio_client.Client(
            address, verbose=False, httpx_kwargs={"cookies": {COOKIE: cookie} if cookie else {}}
        )

    ada, bob, carol_here, carol_there = client(), client(), client("carol"), client("carol")
    prompt = "a red sphere on a grey checkered floor"
    studio.patience = 5.0
    try:
        jobs = [one.submit(prompt=prompt, api_name="/generate") for one in (ada, bob, carol_here)]
        while not all(job.outputs() for job in jobs):
            assert not any(job.done() for job in jobs)
        for one in (ada, carol_there):
            with pytest.raises(AppError, match="already have a job"):
                one.predict(prompt=prompt, api_name="/generate")
        # They came at once: which of them was first is the server's choice.
        assert [job.outputs()[-1]["phase"] for job in jobs].count("queue") == 2
        assert {job.outputs()[-1]["ahead"] for job in jobs} == {0, 1, 2}
    finally:
        studio.patience = 0.0
        for job in jobs:
            job.cancel()
