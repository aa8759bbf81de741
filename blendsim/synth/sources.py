"""The sources a pool may be blended from: a real file when `--data` has one, else a generator."""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blendsim.arrays import Ints
from blendsim.errors import InputError, UnknownName
from blendsim.files import sha256
from blendsim.synth.normalise import video_tokens, with_chat_mean
from blendsim.synth.questions import QuestionSupply, read_questions
from blendsim.synth.supply import LengthSupply, Sampler, Supply, from_rows, stream
from blendsim.traces.demo import DEMOS, OPENVID
from blendsim.traces.demo_prefixes import mmlu_questions
from blendsim.traces.lengths_csv import CSV_FORMATS
from blendsim.traces.load import format_of
from blendsim.traces.seam import ReadOptions

QUESTIONS = "mmlu"
_HASH_DIGITS = 12


class Source(NamedTuple):
    """A length source: the generator, and how its real files are called and read."""

    demo: str  # the built-in source that stands in for the files
    files: tuple[str, ...]  # the first one there is taken, plain or .gz
    normalise: Callable[[Ints], Ints] | None = None  # of output lengths
    is_known: bool = False
    about: str = ""  # what was done to the file's lengths


SOURCES: dict[str, Source] = {
    # Table 4's Azure is the code trace of 2024.
    "azure": Source(
        "azure-code",
        ("AzureLLMInferenceTrace_code_1week.csv", "AzureLLMInferenceTrace_code.csv"),
    ),
    "burstgpt": Source(
        "burstgpt", ("BurstGPT_1.csv", "BurstGPT_without_fails_1.csv", "BurstGPT_2.csv")
    ),
    "openvid": Source(
        "openvid", ("OpenVid-1M.csv",), is_known=True, about="frames × 256 tokens, mean 16,384"
    ),
    "sharegpt": Source("sharegpt", ("sharegpt.csv", "nanoflow_sharegpt.csv")),
    "wildchat": Source(
        "wildchat",
        ("wildchat.csv", "flexflow_wildchat_lengths_llama3.csv"),
        with_chat_mean,
        about="outputs to mean 256, variance kept",
    ),
}
QUESTION_FILES = ("mmlu_5shot_llama3_tokens.npz",)
NAMES = (*SOURCES, QUESTIONS)


def open_source(name: str, data: Path | None, seed: int, system_tokens: int) -> Supply:
    """The supply called `name`, of the files in `data` when one of them is its."""
    if name not in NAMES:
        raise UnknownName("source", name, NAMES)
    if data is not None and not data.is_dir():
        raise InputError(f"{data}: no such directory; --data takes one with trace files")
    if name == QUESTIONS:
        return _questions(data, seed, system_tokens)
    source = SOURCES[name]
    path = _find(data, source.files)
    sampler = _generator(source.demo) if path is None else _sampler(source, path)
    return LengthSupply(
        name,
        f"generator demo:{source.demo}" if path is None else _told(path, source.about),
        sampler,
        is_known=source.is_known,
        seed=seed,
        system_tokens=system_tokens,
    )


def _questions(data: Path | None, seed: int, system_tokens: int) -> Supply:
    path = _find(data, QUESTION_FILES)
    if path is None:
        questions = mmlu_questions(DEMOS[QUESTIONS].requests, stream("questions", seed, 0))
        origin = f"generator demo:{QUESTIONS}"
    else:
        questions = read_questions(path)
        origin = _told(path, f"{len(questions.subject):,} distinct prompts, then new questions")
    return QuestionSupply(QUESTIONS, origin, questions, seed=seed, system_tokens=system_tokens)


def _find(data: Path | None, files: tuple[str, ...]) -> Path | None:
    if data is None:
        return None
    paths = (data / f"{name}{end}" for name in files for end in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _told(path: Path, about: str) -> str:
    """A file by its name and the beginning of its hash; where it lay is nobody's matter."""
    digest = sha256(path)[:_HASH_DIGITS]
    return f"file {path.name}, sha256 {digest}…" + (f"; {about}" if about else "")


def _generator(demo: str) -> Sampler:
    make = DEMOS[demo].make

    def sample(n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        workload = make(n, rng)
        return workload.prompt_len, workload.output_len

    return sample


def _sampler(source: Source, path: Path) -> Sampler:
    if source.demo == "openvid":
        return _videos(path)
    form = format_of(path)
    if form not in CSV_FORMATS:
        raise InputError(
            f"{path}: is no CSV with lengths; give the trace's own CSV under that name"
        )
    workload = form.read(path, ReadOptions())
    output = workload.output_len
    if source.normalise is not None:
        output = source.normalise(output)
    return from_rows(workload.prompt_len, output)


def _videos(path: Path) -> Sampler:
    """Real frames. Captions are text, so prompt lengths are the model's."""
    import pyarrow as pa
    from pyarrow import csv

    from blendsim.traces.content import content

    try:
        table = csv.read_csv(
            pa.BufferReader(content(path)),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(
                include_columns=["frame"], column_types={"frame": pa.float64()}
            ),
        )
    except (pa.ArrowInvalid, KeyError) as error:
        raise InputError(f"{path}: has no column 'frame' of numbers ({error}); mend it") from error
    frames = np.asarray(table["frame"].to_numpy(zero_copy_only=False), np.float64)
    if not len(frames) or not (frames >= 1).all():
        raise InputError(f"{path}, column 'frame': every video needs one frame or more; mend it")
    output = video_tokens(frames, longest=OPENVID.output_clip[1])

    def sample(n: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
        _, drawn = from_rows(output, output)(n, rng)
        return OPENVID.sample(n, rng).prompt, drawn

    return sample
