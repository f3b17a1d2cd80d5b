"""Build and serve the page of app.py: masked words, next sentences, two models side by side."""

import html
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from urllib.parse import urlsplit

import gradio as gr
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from cloze.errors import UserError
from cloze.inference.fill_mask import MASK
from cloze.inference.session import TrainedModel, fill_masks_in_text, judge_texts
from cloze.objectives.metrics import MASKED_TOKENS, SENTENCE_PAIRS

TOP_K = 5
SENTENCES = [
    f"The moon goes round the {MASK}.",
    f"Bread is made of {MASK}, water and salt.",
    f"She sat down at the piano and began to {MASK}.",
    f"The {MASK} blew all night, and in the morning the {MASK} was calm.",
]
PAIRS = [
    ["Water boils at a lower temperature on a mountain.", "The air presses less on its surface there."],
    ["Water boils at a lower temperature on a mountain.", "The second violin comes in after four bars."],
    ["The tide goes out twice a day.", "Then one can walk over the sand to the island."],
]
# Accepted Host headers, with any port, as ssh -L may forward another. Others are refused: a foreign name may resolve to
# this machine (DNS rebinding).
HOSTS = ["127.0.0.1", "localhost"]
SHARED_HOSTS = ["*.gradio.live"]
# Gradio also serves files, proxies other servers and takes uploads; the page needs only predictions.
REFUSED_PATHS = ("/gradio_api/file", "/gradio_api/proxy", "/monitoring")
POST_PATHS = tuple(f"/gradio_api/{name}" for name in ("queue/join", "run/", "call/", "cancel", "reset"))
# Not Gradio's own weights: its semi-bold font file lacks most letters.
FONT = gr.themes.LocalFont("Source Sans Pro", weights=(400, 700))
CSS = """
.cloze-head h1 { font-size: 1.8rem; margin: 0.8rem 0; }
.cloze-head p { margin: 0.2rem 0; overflow-wrap: anywhere; }
.cloze-head b { margin-right: 0.5rem; }
.cloze-title { margin: 0.6rem 0 0.3rem 0; opacity: 0.75; }
.cloze-bars { display: grid; grid-template-columns: minmax(7rem, max-content) 1fr 3.5rem; gap: 0.4rem 0.8rem;
  align-items: center; }
.cloze-bars .token { font-weight: 600; overflow-wrap: anywhere; }
.cloze-bars .track { background: var(--border-color-primary); border-radius: 0.3rem; height: 0.9rem; overflow: hidden; }
.cloze-bars .bar { background: var(--color-accent); height: 100%; min-width: 2px; }
.cloze-bars .share { text-align: right; font-variant-numeric: tabular-nums; }
.cloze-message { border-left: 0.25rem solid var(--color-accent); padding: 0.5rem 0.8rem; margin: 0.6rem 0; }
"""


def _fill_masks(models: dict[str, TrainedModel], name: str, text: str) -> str:
    """Return the most probable words for each mask of a text, as HTML."""
    masks = fill_masks_in_text(models[name], text, TOP_K)
    titles = [MASK] if len(masks) == 1 else [f"{MASK} {number} of {len(masks)}" for number in range(1, len(masks) + 1)]
    return "".join(map(bars, titles, masks))


def _judge_pair(models: dict[str, TrainedModel], name: str, sentence_a: str, sentence_b: str) -> str:
    """Return the probability that B follows A, as HTML."""
    trained = models[name]
    probability, cut = judge_texts(trained, sentence_a, sentence_b)
    note = message(f"The pair exceeds {trained.max_seq_length:,} tokens and was truncated.") if cut else ""
    return bars("The second text", [("follows", 1 - probability), ("is from elsewhere", probability)]) + note


def _or_message(answer: Callable[..., str], *inputs) -> str:
    """Return the answer, or the message of a UserError as HTML."""
    try:
        return answer(*inputs)
    except UserError as error:
        return message(str(error))


def bars(title: str, shares: Sequence[tuple[str, float]]) -> str:
    """Return named probabilities as a bar chart in HTML."""
    rows = "".join(
        f'<span class="token">{html.escape(name)}</span>'
        f'<div class="track"><div class="bar" style="width: {share:.1%}"></div></div>'
        f'<span class="share">{share:.1%}</span>'
        for name, share in shares
    )
    return f'<p class="cloze-title">{html.escape(title)}</p><div class="cloze-bars">{rows}</div>'


def message(text: str) -> str:
    """Return a note to the user as HTML."""
    return f'<p class="cloze-message">{html.escape(text)}</p>'


def build_page(models: dict[str, TrainedModel]) -> gr.Blocks:
    """Return the page, with the tabs that the models have heads for."""
    masked = [name for name, trained in models.items() if trained.predicts(MASKED_TOKENS)]
    paired = [name for name, trained in models.items() if trained.predicts(SENTENCE_PAIRS)]
    fill_in, judge = partial(_or_message, _fill_masks, models), partial(_or_message, _judge_pair, models)
    stats = (f"<p><b>{html.escape(name)}</b> {html.escape(trained.stats)}</p>" for name, trained in models.items())
    several = len(models) > 1
    with gr.Blocks(title="cloze", analytics_enabled=False) as page:
        gr.HTML(f"<h1>What does the model know?</h1>{''.join(stats)}", elem_classes="cloze-head")
        if masked:
            with gr.Tab("Hidden words"):
                model = gr.Dropdown(masked, label="Model", visible=several)
                text = _masked_textbox()
                _answer_on_submit(fill_in, [text], gr.Button("Ask", variant="primary"), {model: gr.HTML()})
                gr.Examples(SENTENCES, text)
        if paired:
            with gr.Tab("Next sentence"):
                model = gr.Dropdown(paired, label="Model", visible=several)
                texts = [gr.Textbox(PAIRS[0][0], label="A text"), gr.Textbox(PAIRS[0][1], label="Does this follow?")]
                _answer_on_submit(judge, texts, gr.Button("Ask", variant="primary"), {model: gr.HTML()})
                gr.Examples(PAIRS, texts)
        if len(masked) > 1:
            with gr.Tab("Side by side"):
                text, button, answers = _masked_textbox(), gr.Button("Ask", variant="primary"), {}
                with gr.Row():
                    for name in masked[:2]:
                        with gr.Column(min_width=280):
                            model = gr.Dropdown(masked, value=name, label="Model")
                            answers[model] = gr.HTML()
                _answer_on_submit(fill_in, [text], button, answers)
                gr.Examples(SENTENCES, text)
    return page


class OwnRequestsOnly:
    """Refuse requests from other pages, and requests that this page does not make, such as uploads."""

    def __init__(self, app: ASGIApp):
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on to the app, or answer it with status 403."""
        if scope["type"] == "http" and not _is_own(scope["method"], scope["path"], Headers(scope=scope)):
            await PlainTextResponse("Request refused: this page does not make it", status_code=403)(
                scope, receive, send
            )
        else:
            await self.app(scope, receive, send)


def _is_own(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Return whether the page itself makes requests of this kind."""
    # Browsers send Origin with requests from other pages, and with all but plain reads.
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != headers.get("host"):
        return False
    return not path.startswith(REFUSED_PATHS) and (method in ("GET", "HEAD") or path.startswith(POST_PATHS))


def _masked_textbox() -> gr.Textbox:
    return gr.Textbox(SENTENCES[0], label=f"A text with {MASK} for each hidden word")


def _answer_on_submit(
    answer: Callable[..., str], texts: list[gr.Textbox], button: gr.Button, answers: dict[gr.Dropdown, gr.HTML]
) -> None:
    """Show each model's answer when the button is clicked or Enter is pressed in a text."""
    for trigger in (button.click, *(text.submit for text in texts)):
        for model, shown in answers.items():
            # One question at a time, in all tabs together: a forward already uses all cores.
            trigger(
                answer, [model, *texts], shown, show_progress="minimal", concurrency_id="models", concurrency_limit=1
            )


def serve_page(models: dict[str, TrainedModel], port: int | None, share: bool) -> None:
    """Serve the page on this machine until the process ends.

    Args:
        models: the models by display name.
        port: the port; None for the first free one from 7860.
        share: whether to create a public link, too.

    Raises:
        UserError: if the port cannot be used.
    """
    page = build_page(models)
    hosts = HOSTS + SHARED_HOSTS * share
    try:
        _, url, link = page.launch(
            server_name="127.0.0.1",
            server_port=port,
            share=share,
            prevent_thread_lock=True,
            quiet=True,
            footer_links=[],
            run_history=False,
            ssr_mode=False,
            app_kwargs={"middleware": [Middleware(TrustedHostMiddleware, hosts), Middleware(OwnRequestsOnly)]},
            css=CSS,
            theme=gr.themes.Default(font=[FONT, "sans-serif"]),
        )
    except (OSError, OverflowError) as error:
        raise UserError(f"--port {port}: {error}: give another port") from None
    print(f"The page is at {link or url} (press Ctrl-C to stop)", flush=True)
    page.block_thread()
