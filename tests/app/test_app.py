"""The page in a real browser: the predictions of the command line, tabs only for trained heads, no requests to other
machines, and a message instead of a traceback."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
import torch
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from transformers import AutoModelForMaskedLM, AutoModelForNextSentencePrediction, AutoModelForPreTraining

import app
from cloze.errors import UserError
from cloze.inference.page import bars, build_page, message
from cloze.inference.session import MAX_CHARACTERS, load_trained
from tests.utils import TASKS

pytestmark = pytest.mark.slow

PATIENCE = 60


def save_unlike(auto_model, source: str, path: Path, seed: int) -> str:
    """A checkpoint with the tokenizer of ``source`` and varied weights, so that probabilities differ."""
    model = auto_model.from_pretrained(source)
    torch.manual_seed(seed)
    with torch.no_grad():
        for weights in model.parameters():
            weights.add_(torch.randn_like(weights) * 0.5)
    model.save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((Path(source) / name).read_bytes())
    return str(path)


@pytest.fixture(scope="session")
def models(checkpoint, pair_checkpoint, tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        "before": save_unlike(AutoModelForMaskedLM, checkpoint("bert"), folder / "before", 1),
        "after": save_unlike(AutoModelForMaskedLM, checkpoint("roberta"), folder / "after", 2),
        "both": save_unlike(AutoModelForPreTraining, pair_checkpoint("bert"), folder / "both", 3),
        "pairs": save_unlike(AutoModelForNextSentencePrediction, pair_checkpoint("bert"), folder / "pairs", 4),
    }


@pytest.fixture(scope="session")
def served(models, tmp_path_factory):
    """The page of three models: its address, its log, and a proxy for all traffic that leaves the machine."""
    log = tmp_path_factory.mktemp("log") / "log"
    proxy = socket.create_server(("127.0.0.1", 0))
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    outside = f"http://127.0.0.1:{proxy.getsockname()[1]}"
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_HUB", "GRADIO"))}
    environment |= {"HTTP_PROXY": outside, "HTTPS_PROXY": outside, "NO_PROXY": "127.0.0.1", "OMP_NUM_THREADS": "1"}
    # Users may have set these for other programs.
    environment |= {"GRADIO_SERVER_NAME": "0.0.0.0", "GRADIO_SHARE": "True"}
    argv = [sys.executable, app.__file__, *(models[name] for name in ("before", "after", "both")), "--port", str(port)]
    with open(log, "w") as output:
        process = subprocess.Popen(argv, env=environment, stdout=output, stderr=subprocess.STDOUT)
    try:
        end = time.monotonic() + 2 * PATIENCE
        while "The page is at" not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/", log, proxy
    finally:
        process.terminate()
        process.wait()
        proxy.close()


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    for flag in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"),
        *("disable-component-update", "disable-sync", f"user-data-dir={tmp_path_factory.mktemp('browser')}"),
        "window-size=1200,900",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options)
    yield driver
    driver.quit()


class Page:
    """A user's actions on the page, and what the page shows."""

    def __init__(self, browser, url: str):
        self.browser = browser
        browser.get(url)
        self.wait_for(lambda: self.tabs())

    def wait_for(self, found):
        return WebDriverWait(self.browser, PATIENCE).until(lambda _: found())

    def seen(self, selector: str) -> list:
        return [element for element in self.browser.find_elements(By.CSS_SELECTOR, selector) if element.is_displayed()]

    def tabs(self) -> list[str]:
        return [tab.text for tab in self.seen("button[role=tab]")]

    def open(self, tab: str) -> None:
        next(button for button in self.seen("button[role=tab]") if button.text == tab).click()

    def write(self, *texts: str) -> None:
        for box, text in zip(self.wait_for(lambda: self.seen("textarea")), texts, strict=True):
            # Set at once: typing long texts key by key takes too long.
            self.browser.execute_script(
                "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input'))", box, text
            )

    def ask(self, *texts: str, enter: bool = False) -> None:
        """Write, ask, and wait until the page shows another answer."""
        before = self.answer()
        self.write(*texts)
        if enter:
            self.seen("textarea")[-1].send_keys(Keys.ENTER)
        else:
            next(button for button in self.seen("button") if button.text == "Ask").click()
        self.wait_for(lambda: self.answer() not in ([], before))
        # Two models answer one after the other.
        time.sleep(1)

    def answer(self) -> list[str]:
        return [element.text for element in self.seen(".cloze-bars, .cloze-message")]

    def bars(self) -> list[list[tuple[str, str]]]:
        """Names and percentages in each group of bars."""
        return [
            list(
                zip(*([e.text for e in group.find_elements(By.CLASS_NAME, n)] for n in ("token", "share")), strict=True)
            )
            for group in self.seen(".cloze-bars")
        ]

    def messages(self) -> list[str]:
        return [element.text for element in self.seen(".cloze-message")]


@pytest.fixture
def page(browser, served):
    return Page(browser, served[0])


@pytest.fixture
def filled(run_mlm_script, tmp_path):
    """``filled(model, text)`` is the command line's prediction for the page's bars."""

    def fill(model: str, text: str) -> list[list[tuple[str, str]]]:
        (tmp_path / "lines.txt").write_text(text)
        argv = ("--model_name_or_path", model, "--do_predict", "--test_file", tmp_path / "lines.txt")
        assert run_mlm_script(*argv, "--output_dir", tmp_path / "out")[0] == 0
        (line,) = map(json.loads, (tmp_path / "out" / "predictions.jsonl").read_text().splitlines())
        return [[(f["token"], f"{f['probability']:.1%}") for f in mask] for mask in line["fillings"]]

    return fill


@pytest.mark.parametrize("enter", [False, True])
def test_page_fills_masks_as_the_command_line_does(enter, page, filled, models):
    text = "The [MASK] goes round the [MASK]."
    expected = filled(models["before"], text)
    assert len(expected) == 2
    assert len(expected[0]) == 5
    page.ask(text, enter=enter)
    assert page.bars() == expected
    assert [title.text for title in page.seen(".cloze-title")] == ["[MASK] 1 of 2", "[MASK] 2 of 2"]
    bar, track = page.seen(".cloze-bars .bar")[0].size["width"], page.seen(".cloze-bars .track")[0].size["width"]
    assert bar / track == pytest.approx(float(expected[0][0][1].rstrip("%")) / 100, abs=0.01)


def test_page_answers_a_text_longer_than_the_model(page, filled, models):
    text = "[MASK] is far. " + "The moon goes round the earth. " * 40 + "The [MASK] is far."
    page.ask(text)
    assert page.bars() == filled(models["before"], text)


def test_page_answers_with_the_chosen_model(page, filled, models):
    page.seen("input[role=combobox]")[0].click()
    page.wait_for(lambda: [option for option in page.seen("[role=option]") if option.text.endswith("after")])
    next(option for option in page.seen("[role=option]") if option.text.endswith("after")).click()
    page.ask("The [MASK] is far.")
    assert page.bars() == filled(models["after"], "The [MASK] is far.")


def test_page_shows_two_models_side_by_side(page, filled, models):
    page.open("Side by side")
    page.ask("Salt melts the [MASK].")
    one, other = (filled(models[name], "Salt melts the [MASK].") for name in ("before", "after"))
    assert one != other
    assert page.bars() == [*one, *other]
    left, right = page.seen(".cloze-bars")
    assert left.rect["y"] == right.rect["y"]
    assert left.rect["x"] + left.rect["width"] < right.rect["x"]


def test_page_judges_pairs_as_the_command_line_does(page, run_nsp_script, models, tmp_path):
    pairs = [("The moon is far.", "It is cold there."), ("The moon is far. " * 30, "Salt melts ice.")]
    rows = (json.dumps({"sentence_a": a, "sentence_b": b}) for a, b in pairs)
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows))
    argv = ("--model_name_or_path", models["both"], "--do_predict", "--test_file", tmp_path / "pairs.jsonl")
    assert run_nsp_script(*argv, "--output_dir", tmp_path / "out")[0] == 0
    lines = (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()
    page.open("Next sentence")
    for pair, line, note in zip(pairs, lines, ([], ["The pair exceeds 66 tokens and was truncated."]), strict=True):
        page.ask(*pair)
        expected = json.loads(line)
        probabilities = [expected["is_next_probability"], expected["not_next_probability"]]
        shares = [f"{probability:.1%}" for probability in probabilities]
        assert page.bars() == [list(zip(("follows", "is from elsewhere"), shares, strict=True))]
        assert page.messages() == note


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "The text is empty: write some words."),
        ("The moon is far.", "No word is hidden: write [MASK] in place of a word."),
        ("[MASK]" + "x" * MAX_CHARACTERS, "The text has 20,006 characters: shorten it to 20,000."),
    ],
)
def test_page_reports_texts_it_cannot_answer(text, problem, page, served):
    page.ask(text)
    assert page.messages() == [problem]
    assert page.bars() == []
    page.ask("The [MASK] is far.")
    assert page.messages() == []
    assert len(page.bars()) == 1
    assert "Traceback" not in served[1].read_text()


def test_page_fills_in_a_clicked_example(page):
    next(button for button in page.seen("button") if button.text.startswith("Bread is made")).click()
    page.wait_for(lambda: page.seen("textarea")[0].get_attribute("value") == "Bread is made of [MASK], water and salt.")


def test_page_fits_a_phone(page):
    page.browser.set_window_size(500, 900)
    try:
        page.open("Side by side")
        page.ask("Salt melts the [MASK].")
        width = page.browser.execute_script("return document.documentElement.clientWidth")
        assert all(bars.rect["x"] >= 0 for bars in page.seen(".cloze-bars"))
        assert all(bars.rect["x"] + bars.rect["width"] <= width for bars in page.seen(".cloze-bars"))
        upper, lower = page.seen(".cloze-bars")
        assert upper.rect["y"] + upper.rect["height"] < lower.rect["y"]
    finally:
        page.browser.set_window_size(1200, 900)


def test_page_makes_no_requests_to_other_machines(page, served):
    """Page and server load no fonts or scripts, send no telemetry, and do not look for a newer version."""
    url, _, proxy = served
    page.browser.get_log("performance")
    Page(page.browser, url).ask("The [MASK] is far.")
    events = [json.loads(entry["message"])["message"] for entry in page.browser.get_log("performance")]
    asked = {e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"}
    assert len(asked) > 10
    assert {address for address in asked if not address.startswith((url, "data:", "blob:"))} == set()
    proxy.setblocking(False)
    with pytest.raises(BlockingIOError):
        proxy.accept()


def test_server_listens_on_loopback_only(served):
    """Linux answers at all of 127/8; a server bound to 127.0.0.1 refuses other addresses."""
    port = int(served[0].rstrip("/").rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port))
    assert served[1].read_text().splitlines()[-1] == f"The page is at {served[0]} (press Ctrl-C to stop)"


def ask_server(url: str, path: str, **headers: str) -> tuple[int, str]:
    """Send a request as another program or page would: POST if there is a body."""
    body = headers.pop("body", None)
    request = Request(url.rstrip("/") + path, body and body.encode(), headers)
    try:
        with urlopen(request) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


@pytest.mark.parametrize("path", ["/", "/config", "/gradio_api/info"])
def test_server_refuses_other_host_headers(path, served):
    """DNS rebinding: a foreign name resolves to this machine, and scripts from there could read the answers."""
    for host in ("stranger.example", "127.0.0.1.stranger.example", "stranger.localhost", "127.0.0.2", "[::1]", ""):
        assert ask_server(served[0], path, Host=host) == (400, "Invalid host header")
    # As through ssh -L 9000:localhost:7860.
    assert ask_server(served[0], path, Host="localhost:9000")[0] == 200


@pytest.mark.parametrize("path", ["/gradio_api/queue/join", "/gradio_api/upload", "/config"])
@pytest.mark.parametrize("origin", ["http://stranger.example", "null", "http://127.0.0.1:1", "https://localhost"])
def test_server_refuses_other_origins(path, origin, served):
    body = {} if path == "/config" else {"body": "{}"}
    assert ask_server(served[0], path, Origin=origin, **body) == (403, "Request refused: this page does not make it")


def test_server_answers_its_own_page(served, models):
    question = {"data": ["before", "The [MASK] is far."], "fn_index": 0, "session_hash": "session"}
    headers = {"Content-Type": "application/json", "body": json.dumps(question)}
    for origin in ({}, {"Origin": served[0].rstrip("/")}):
        assert ask_server(served[0], "/gradio_api/queue/join", **headers, **origin)[0] == 200


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/gradio_api/upload", "anything"),
        ("/gradio_api/stream/0", "anything"),
        ("/gradio_api/vibe-edit", "{}"),
        ("/login", "username=a&password=b"),
        ("/gradio_api/file={readable}", None),
        ("/gradio_api/file{readable}", None),
        ("/%67radio_api/file={readable}", None),
        ("/gradio_api/proxy=http://127.0.0.1/", None),
        ("/monitoring", None),
    ],
)
def test_server_accepts_only_questions_and_serves_no_file(path, body, served, models):
    # Gradio would serve files in the temporary folder or below the current folder.
    path = path.format(readable=Path(models["before"]) / "config.json")
    assert ask_server(served[0], path, body=body) == (403, "Request refused: this page does not make it")


def test_server_reveals_no_paths(served, models):
    for path in ("/", "/config", "/gradio_api/info", "/gradio_api/openapi.json"):
        status, text = ask_server(served[0], path)
        assert status == 200
        assert str(Path(models["before"]).parent) not in text
        assert str(Path.home()) not in text
    assert '"before"' in ask_server(served[0], "/config")[1]


@pytest.mark.parametrize(
    ("names", "tabs"),
    [
        (["before"], ["Hidden words"]),
        (["pairs"], ["Next sentence"]),
        (["both"], ["Hidden words", "Next sentence"]),
        (["before", "pairs"], ["Hidden words", "Next sentence"]),
        (["before", "after"], ["Hidden words", "Side by side"]),
        (["before", "after", "both"], ["Hidden words", "Next sentence", "Side by side"]),
    ],
)
def test_page_has_tabs_for_the_heads_of_its_models(names, tabs, models):
    blocks = build_page({name: load_trained(models[name], TASKS) for name in names}).get_config_file()["components"]
    assert [block["props"]["label"] for block in blocks if block["type"] == "tabitem"] == tabs


def test_page_of_three_models_has_all_tabs(page):
    assert page.tabs() == ["Hidden words", "Next sentence", "Side by side"]


def test_bars_and_messages_escape_html():
    assert "<b>" not in bars("<b>", [("<b>", 0.5)]) + message("<b>")
    assert "&lt;b&gt;" in bars("", [("<b>", 0.5)])


@pytest.mark.parametrize(
    ("argv", "problem"),
    [
        ([], "the following arguments are required: MODEL: see --help"),
        (["{before}", "--prot", "1"], "unrecognized arguments: --prot 1: see --help"),
        (["{before}", "--port", "many"], "argument --port: invalid int value: 'many'"),
        (["nowhere"], "nowhere: no model: give a folder"),
        (["{before}", "--port", "{taken}"], "--port {taken}: Cannot find empty port"),
        (["{before}", "--port", "99999"], "--port 99999: "),
    ],
)
def test_app_reports_wrong_command_lines(argv, problem, models):
    with socket.create_server(("127.0.0.1", 0)) as server:
        names = models | {"taken": str(server.getsockname()[1])}
        with pytest.raises(UserError) as error:
            app.main([argument.format(**names) for argument in argv])
    assert problem.format(**names) in str(error.value)


def test_app_process_exits_with_2_and_one_line(tmp_path):
    process = subprocess.run([sys.executable, app.__file__, tmp_path], capture_output=True, text=True)
    assert process.returncode == 2
    assert process.stderr.startswith(f"error: {tmp_path}: no model: give a folder with a config.json")
    assert process.stderr.count("\n") == 1
