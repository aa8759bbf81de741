"""The account of a run's seconds in words and tables: what each cause is called, and means."""

from blendsim.report import html
from blendsim.report.gist import Hindsight
from blendsim.report.losses import CAUSES as STEP_CAUSES
from blendsim.report.losses import Losses
from blendsim.report.plots import run as plots
from blendsim.report.plots.panel import Panel
from blendsim.report.tables import Column, number, share

#: Of every cause of Losses.causes, a word for the picture and its meaning.
CAUSES = {
    "overlap": (
        "overlap",
        "kinds of work that did not run side by side, or waited for GPU or host memory",
    ),
    "attention": ("attention", "decode attention slower than its best rate"),
    "floors": ("head, prefill", "LM head and prefill attention slower than their best rates"),
    "size": ("step size", "another number of tokens in the step would have been worth more"),
    "tail": ("tail", "decodes alone, with nothing left to compute beside them"),
    "kv": ("KV, mix", "too little beside the best size: KV not full, or other work in other steps"),
    "again": ("done again", "work beyond the least: computed again, or prefixes not shared"),
}
#: Those of single steps, in the order in which pictures stack them.
WORDS = [CAUSES[cause][0] for cause in STEP_CAUSES]
WORK = "what all of it takes, each piece at its price in the best mix"


def picture(one: Panel) -> str:
    """A panel as a part of the page."""
    return html.picture(html.Picture(one.title, one.note, one.svg))


def account_parts(found: Hindsight | None) -> list[str]:
    """Where the seconds of a run went: a table and a picture, or why there is none."""
    if found is None:
        return []
    account = found.account
    if account is None:
        return [html.paragraph(f"No account of the seconds: {found.no_account}.", "quiet")]
    lost = [(*CAUSES[cause], seconds) for cause, seconds in account.causes.items()]
    rows = [
        (f"{_bound_word(account, found)}: {WORK}", account.bound),
        *((f"{word}: {why}", seconds) for word, why, seconds in lost),
        ("the run", account.run),
    ]
    digits = digits_of(account)
    columns = [
        Column("", [what for what, _ in rows], is_text=True),
        Column("seconds", [number(seconds, digits) for _, seconds in rows]),
        Column("of the run", [share(seconds / account.run) for _, seconds in rows]),
    ]
    picture_of = picture(plots.losses_panel(account, WORDS))
    return [html.beside([html.table(columns), picture_of])]


def digits_of(account: Losses) -> int:
    """Digits of seconds behind the point: tenths for runs of minutes."""
    return 1 if account.run >= 100 else 4


def _bound_word(account: Losses, found: Hindsight) -> str:
    # NOTE: where the longest request alone is the reachable bound, the work's own bound is lower.
    is_reachable = account.bound > 0.999999 * found.limits.reachable
    return "reachable bound" if is_reachable else "bound of the work"
