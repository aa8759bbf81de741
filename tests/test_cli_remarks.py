"""What is noted beside figures: plans that an engine cannot follow, kernels, lengths given."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import invoke
from test_cli_export import batch, planned
from test_cli_range import results
from test_traces_openai import lines, request

from blendsim.cli.remarks import memory_told
from blendsim.cli.servers import flags_assumed
from blendsim.search.priced import pricing_notes
from blendsim.serving.knobs import Knobs
from blendsim.settings import Settings
from blendsim.traces import jsonl, load

KEPT_IN_FP8 = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128_256,
    "max_position_embeddings": 131_072,
    "quantization_config": {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8"},
}
CANNOT_FOLLOW = "so it cannot follow this plan"


def notes(*args: object) -> list[str]:
    """The notes of `--json`; each stands in the text as well."""
    done = invoke(*args, "--json")
    assert done.exit_code == 0, done.stderr
    told: list[str] = json.loads(done.stdout)["notes"]
    text = "".join(invoke(*args).stdout.split())
    for note in told:
        assert "".join(note.split()) in text
    return told


def having(words: str, told: list[str]) -> list[str]:
    return [note for note in told if words in note]


@pytest.mark.parametrize("more", [(), ("--dp", "1,2"), ("--gpu", "a100-80g,h200")])
def test_engines_that_serve_in_one_line_are_told_that_they_cannot_follow(
    tmp_path: Path, more: tuple[str, ...]
) -> None:
    given = ("plan", "--trace", batch(tmp_path / "batch.jsonl"), *more)
    for engine, planner, is_told in (
        ("vllm", "blend", True),
        ("vllm", "dfs", False),
        ("sglang-lpm", "blend", True),
        ("vllm-planned", "blend", False),
        ("nanoflow", "blend", False),
    ):
        told = notes(*given, "--engine", engine, "--planner", planner)
        found = having(CANNOT_FOLLOW, told)
        assert bool(found) == is_told, (engine, planner)
        assert all("--planner dfs" in note for note in found)
        assert all(("--engine vllm-planned" in note) == (engine == "vllm") for note in found)


def test_a_simulation_by_such_an_engine_tells_it_too(tmp_path: Path) -> None:
    plan = planned(tmp_path, batch(tmp_path / "batch.jsonl"))
    assert having(CANNOT_FOLLOW, notes("simulate", plan, "--engine", "vllm"))
    assert not having(CANNOT_FOLLOW, notes("simulate", plan, "--engine", "vllm-planned"))
    assert not having(CANNOT_FOLLOW, notes("simulate", plan))


def test_compare_does_not_ask_for_an_engine_that_it_has_no_option_for() -> None:
    asked = ("compare", "--trace", "demo:mixed?n=50", "--model", "gpt-oss-20b", "--gpu", "h100")
    found = having("are left out", notes(*asked, "--token-budget", 2_048))
    assert all("engine sglang is not modelled for gpt-oss-20b" in note for note in found)
    assert [note for note in found if "--engine" in note] == []
    assert found


def test_an_export_for_several_replicas_names_a_client_for_each(tmp_path: Path) -> None:
    source, out = batch(tmp_path / "batch.jsonl"), tmp_path / "o.jsonl"
    for dp, words in (
        (1, "; one client is to send the requests"),
        (2, "; one client a replica is"),
    ):
        plan = planned(tmp_path, source, dp=dp, engine="vllm")
        assert having(words, notes("export", plan, "-o", out))


def test_a_search_tells_it_where_it_chose_such_a_plan(tmp_path: Path) -> None:
    given = ("search", "--trace", "demo:mixed?n=300", "--sample", 1, "--evaluations", 5)
    kept: Any = {}
    for engine in ("vllm", "nanoflow"):
        plan = tmp_path / f"{engine}.parquet"
        told = notes(*given, "--engine", engine, "-o", plan)
        shown = invoke("export", plan, "-o", tmp_path / "served.csv")
        assert shown.exit_code == 0, shown.stderr
        ends = "compute" in (tmp_path / "served.csv").read_text()
        kept[engine] = ends, bool(having(CANNOT_FOLLOW, told))
    assert kept["vllm"][0] == kept["vllm"][1]
    assert kept["nanoflow"] == (True, False)


def test_an_export_in_one_order_of_a_plan_of_two_ends_says_so(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl")
    plan, ordered = planned(tmp_path, source), tmp_path / "ordered.jsonl"
    words = "may be slower than in prefix order"
    assert having(words, notes("export", plan, "-o", ordered))
    assert not having(words, notes("export", plan, "-o", tmp_path / "served.csv"))
    args = ("--trace", source, "--planner", "dfs", "-o", plan)
    assert invoke("plan", *args).exit_code == 0
    assert not having(words, notes("export", plan, "-o", ordered))


def test_an_export_for_vllm_says_which_flags_its_plan_assumes(tmp_path: Path) -> None:
    source, plan, ordered = batch(tmp_path / "batch.jsonl"), tmp_path / "p", tmp_path / "o.jsonl"
    for engine, budget, is_told in (("vllm", 512, True), ("nanoflow", 512, False)):
        given = ("--engine", engine, "--token-budget", budget, "--planner", "dfs", "-o", plan)
        assert invoke("plan", "--trace", source, *given).exit_code == 0
        found = having("the plan assumes", notes("export", plan, "-o", ordered))
        assert bool(found) == is_told
        assert having("the plan assumes", notes("export", plan, "-o", tmp_path / "t.csv")) == found
        assert all(f"--max-num-batched-tokens {budget} " in note for note in found)
        assert all("--max-num-seqs 512 --enable-prefix-caching" in note for note in found)


def test_an_export_for_sglang_says_which_flags_its_plan_assumes(tmp_path: Path) -> None:
    source, plan, ordered = batch(tmp_path / "batch.jsonl"), tmp_path / "p", tmp_path / "o.jsonl"
    first = "SGLang with --chunked-prefill-size 4096 --max-running-requests 2048 --schedule-policy"
    for engine, rest in (
        ("sglang", "fcfs --tp-size 2 --mem-fraction-static 0.87; one client"),
        ("sglang-mixed", "fcfs --enable-mixed-chunk --tp-size 2 --mem-fraction-static 0.87; one"),
        ("sglang-lpm", "lpm --tp-size 2 --mem-fraction-static 0.87; one client"),
    ):
        given = ("--engine", engine, "--token-budget", 4096, "--tp", 2, "--planner", "dfs")
        assert invoke("plan", "--trace", source, *given, "-o", plan).exit_code == 0
        [found] = having("the plan assumes", notes("export", plan, "-o", ordered))
        assert f"{first} {rest}" in found


def test_an_export_for_a_vllm_with_little_memory_limits_the_context(tmp_path: Path) -> None:
    """It refuses to start otherwise."""
    source, plan, ordered = batch(tmp_path / "batch.jsonl"), tmp_path / "p", tmp_path / "o.jsonl"
    config = tmp_path / "c.toml"
    for kv_bytes, is_told in ((2_000_000_000, True), (40_000_000_000, False)):
        config.write_text(f"[settings]\nkv_bytes = {kv_bytes}\n")
        given = ("--engine", "vllm", "--planner", "dfs", "--config", config, "-o", plan)
        assert invoke("plan", "--trace", source, *given).exit_code == 0
        [found] = having("the plan assumes", notes("export", plan, "-o", ordered))
        assert ("--max-model-len" in found) == is_told
        assert f"--enable-prefix-caching --kv-cache-memory-bytes {kv_bytes}" in found
        # 131,072 bytes a token, in blocks of 16.
        assert not is_told or f"{kv_bytes} --max-model-len 15248; one" in found


def test_results_of_other_requests_are_counted(tmp_path: Path) -> None:
    one, two = batch(tmp_path / "one.jsonl", 30), batch(tmp_path / "two.jsonl", 40, first=30)
    foreign = {f"other/{k}": 5 for k in range(1_100)}
    mixed = results(tmp_path / "mixed.jsonl", {"r0": 3, "r35": 4, **foreign})
    given = ("--lengths", mixed, "--planner", "dfs")
    for traces, count in (
        (("--trace", one), "1,101 of 1,102"),
        (("--trace", two), "1,101 of 1,102"),
        (("--trace", one, "--trace", two), "1,100 of 1,102"),
    ):
        told = notes("plan", *traces, *given)
        assert having(f"{count} results of {mixed} belong to no request of these traces", told)
    assert having("1,101 of 1,102 results", notes("trace", "info", one, "--lengths", mixed))
    own = results(tmp_path / "own.jsonl", {"r0": 3, "r1": 4})
    assert not having("no request of these traces", notes("plan", *traces, "--lengths", own))


def test_kernels_and_given_lengths_are_noted_by_all_that_plan_or_simulate(tmp_path: Path) -> None:
    source, plan = batch(tmp_path / "batch.jsonl", 40), tmp_path / "plan.parquet"
    lengths = results(tmp_path / "results.jsonl", {f"r{k}": 3 + k for k in range(40)})
    given = ("--trace", source, "--lengths", lengths, "--gpu", "h200")
    made = ("plan", *given, "--planner", "dfs", "-o", plan)
    kernels, looked = "are as measured there", "looks at all 40 output lengths"
    for command in (
        made,
        ("plan", *given, "--planner", "dfs", "--deadline", "9h"),
        ("search", *given, "--evaluations", 5),
        ("simulate", plan),
    ):
        told = notes(*command)
        assert len(having(kernels, told)) == 1, command
        assert len(having(looked, told)) == 1, command
    other = notes("plan", "--trace", source, "--gpu", "a100-80g,h200", "--planner", "dfs")
    assert having("kernels of h200 are priced by the imported profile", other)
    assert not having(looked, other)
    assert not having(kernels, notes("simulate", plan, "--profile", "measured")), "it was asked for"
    assert having("by the imported profile", notes("simulate", plan, "--profile", "imported"))


def test_overlap_is_not_noted_for_engines_that_do_not(tmp_path: Path) -> None:
    given = ("plan", "--trace", batch(tmp_path / "batch.jsonl"), "--planner", "dfs")
    for engine, is_told in (("vllm", False), ("sglang", False), ("nanoflow", True)):
        for more, words in (
            ((), "are as measured there"),
            (("--profile", "imported"), "by the imported profile"),
        ):
            told = notes(*given, "--gpu", "h200", "--engine", engine, *more)
            (found,) = having(words, told)
            assert ("overlap" in found) == is_told, engine


def counted(path: Path, prompts: dict[str, Any], name: str = "prompt_tokens") -> Path:
    """Results with lengths of prompts."""
    rows = [
        {
            "custom_id": custom_id,
            "response": {"body": {"usage": {"completion_tokens": 3, name: tokens}}},
        }
        for custom_id, tokens in prompts.items()
    ]
    return lines(path, *rows)


@pytest.mark.parametrize("name", ["prompt_tokens", "input_tokens"])
def test_results_of_other_prompts_tell_of_a_wrong_tokenizer(tmp_path: Path, name: str) -> None:
    one, two = batch(tmp_path / "one.jsonl", 30, first=40), batch(tmp_path / "two.jsonl", 40)
    lengths = load(str(two)).prompt_len.tolist()
    own = {f"r{k}": length for k, length in enumerate(lengths)}
    words = "probably another tokenizer or chat template"
    for factor, is_told in ((1.0, False), (1.04, False), (1.06, True), (0.5, True)):
        given = counted(tmp_path / "r", {k: round(100 * v * factor) for k, v in own.items()}, name)
        longer = lines(
            tmp_path / "long.jsonl",
            *(request(f"r{k}", prompt=[1] * 100 * v) for k, v in enumerate(lengths)),
        )
        found = having(words, notes("trace", "info", longer, "--lengths", given))
        assert bool(found) == is_told, factor
    mean = 100 * sum(lengths) / 40
    assert f"{longer}: prompts have {mean:,.0f} tokens in the mean, and by {given}" in found[0]
    assert f"counted {mean / 2:,.0f} (+100% here)" in found[0]
    own |= {f"r{40 + k}": length for k, length in enumerate(lengths[:30])}
    given = counted(tmp_path / "r", {k: 2 * v for k, v in own.items()}, name)
    assert len(having(words, notes("trace", "info", one, two, "--lengths", given))) == 2


def test_prompts_that_are_not_counted_tell_nothing(tmp_path: Path) -> None:
    tokens, texts = batch(tmp_path / "a.jsonl", 30), tmp_path / "b.jsonl"
    lines(texts, *(request(f"r{k}", prompt="say it") for k in range(30)))
    words = "probably another tokenizer or chat template"
    odd = counted(tmp_path / "odd", {"r0": None, "r1": "many", "r2": -5, "r3": True, "r4": 1.5})
    assert not having(words, notes("trace", "info", tokens, "--lengths", odd))
    given = counted(tmp_path / "r", {"r0": 500})
    assert having(words, notes("trace", "info", tokens, "--lengths", given))
    bytes_alone = notes("trace", "info", texts, "--lengths", given)
    assert not having(words, bytes_alone)
    assert having("one byte counts as one token", bytes_alone)


def test_results_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = batch(tmp_path / "batch.jsonl")
    given = results(tmp_path / "results.jsonl", {"r0": 3, "other": 4})
    opened = []
    whole = jsonl.text_lines

    def counting(path: Path, errors: str = "strict") -> Any:
        opened.append(path)
        return whole(path, errors)

    monkeypatch.setattr(jsonl, "text_lines", counting)
    done = invoke("plan", "--trace", source, "--lengths", given, "--planner", "dfs")
    assert "1 of 2 results" in done.stdout
    assert opened.count(given) == 1


BORROWED, ALL_REDUCES = "as NanoFlow published it for an A100", "all-reduces of more than two l40s"


def test_an_overlap_of_another_gpu_is_noted_where_something_overlaps(tmp_path: Path) -> None:
    source = batch(tmp_path / "batch.jsonl", 40)
    given = ("plan", "--trace", source, "--planner", "dfs")
    for more, is_told in (
        (("--gpu", "h100"), True),
        (("--gpu", "h100", "--engine", "vllm"), False),
        (("--gpu", "h100", "--overlap", "sum"), False),
        (("--gpu", "h100", "--overlap", "table"), True),
        ((), False),
        (("--overlap", "table"), False),
        (("--gpu", "h200"), False),  # told together with its kernels
        (("--gpu", "h200", "--tp", "2"), True),
        (("--gpu", "h200", "--profile", "measured"), False),
        (("--gpu", "h200", "--profile", "measured", "--overlap", "table"), True),
    ):
        assert len(having(BORROWED, notes(*given, *more))) == is_told, more
    rented = having(BORROWED, notes(*given, "--gpu", "a100-80g,h100,l40s", "--tp", "1,2"))
    assert len(rented) == 1
    assert "on h100, l40s is priced" in rented[0]


def test_a_comparison_notes_it_for_engines_that_overlap(tmp_path: Path) -> None:
    given = ("compare", "--trace", batch(tmp_path / "batch.jsonl", 40), "--gpu", "b200")
    for engines, is_told in (("vllm", False), ("vllm,nanoflow", True)):
        assert len(having(BORROWED, notes(*given, "--engines", engines))) == is_told, engines


def test_all_reduces_of_a_kernel_that_is_not_used_are_noted(tmp_path: Path) -> None:
    """On more than two GPUs without NVLink; once for all such systems."""
    source = batch(tmp_path / "batch.jsonl", 40)
    given = ("plan", "--trace", source, "--planner", "dfs")
    for gpu, tp, count in (
        ("l40s", "1,2", 0),
        ("l40s", "4", 1),
        ("l40s", "2,4,8", 1),
        ("h100", "4", 0),
    ):
        assert len(having(ALL_REDUCES, notes(*given, "--gpu", gpu, "--tp", tp))) == count, (gpu, tp)


def test_experts_and_borrowed_kernels_are_told_of(tmp_path: Path) -> None:
    given = ("plan", "--trace", batch(tmp_path / "batch.jsonl"), "--gpu", "h200")
    mixture = (*given, "--model", "qwen3-30b-a3b")
    words = "experts beside memory reads are priced as NanoFlow published it for a dense model"
    assert having(words, notes(*mixture, "--planner", "dfs"))
    for plain in (("--overlap", "sum"), ("--overlap", "max"), ("--engine", "vllm")):
        assert not having(words, notes(*mixture, *plain, "--planner", "dfs"))
    assert not having(words, notes(*given, "--planner", "dfs"))
    for asked, told in (
        (
            ("--quantization", "fp8-block"),
            ["GEMMs in fp8-block on h200 are priced by those in fp8"],
        ),
        (("--quantization", "fp8"), []),
        (("--kv-cache-dtype", "fp8"), []),
        (
            ("--quantization", "fp8", "--model", "qwen3-30b-a3b"),
            ["experts in fp8 on h200 are priced by those in fp8-block"],
        ),
    ):
        found = having("are priced by those in", notes(*given, *asked, "--planner", "dfs"))
        assert [note.split(",")[0] for note in found] == told


def test_flags_of_servers_name_the_formats_that_are_asked_for(tmp_path: Path) -> None:
    for engine, kv in (("vllm", "fp8"), ("sglang", "fp8_e4m3")):
        asked = Settings(engine=engine, gpu="h100", quantization="fp8", kv_cache_dtype="fp8")
        (told,) = flags_assumed(asked)
        assert f"--quantization fp8 --kv-cache-dtype {kv}" in told
        (told,) = flags_assumed(replace(asked, quantization="fp8-block", kv_cache_dtype="auto"))
        assert "--quantization" not in told  # no server makes blocks of scales
        assert "and files with weights in fp8-block, which those of llama-3.1-8b are not" in told
        assert "--kv-cache-dtype" not in told
        (told,) = flags_assumed(replace(asked, quantization="none", kv_cache_dtype="bf16"))
        assert not any(word in told for word in ("--quant", "--kv", "files with"))


def test_flags_of_vllm_name_the_knobs_that_are_turned() -> None:
    asked = Settings(engine="vllm")
    turned = Knobs(watermark=0.01, long_prefill_token_threshold=512, max_num_active_seqs=64)
    (told,) = flags_assumed(replace(asked, knobs=turned))
    assert "--max-num-seqs 64 " in told
    assert " --watermark 0.01 --long-prefill-token-threshold 512 --gpu" in told
    (told,) = flags_assumed(replace(asked, knobs=Knobs(prefill_schedule_interval=4)))
    assert " --prefill-schedule-interval 4 --gpu" in told
    (told,) = flags_assumed(asked)
    assert not any(name in told for name in ("watermark", "interval", "threshold"))


def test_flags_of_servers_give_kv_memory_where_it_was_given() -> None:
    """vLLM's in bytes of a GPU, SGLang's in tokens."""
    asked = Settings(engine="vllm", tp=2, kv_bytes=20 * 10**9)
    (told,) = flags_assumed(asked)
    assert "--kv-cache-memory-bytes 10000000000" in told
    assert "--gpu-memory-utilization" not in told
    (told,) = flags_assumed(replace(asked, engine="sglang"))
    assert f"--max-total-tokens {20 * 10**9 // asked.system.kv_bytes_per_token}" in told
    assert "--mem-fraction-static" not in told


def test_what_no_flag_of_a_server_gives_is_told_in_words() -> None:
    asked = Settings(engine="vllm-planned", host_memory_bytes=30 * 10**9, cascade=True)
    (told,) = flags_assumed(asked)
    assert (
        " and our scheduler in it and cascade attention, which no flag turns on and 30.0 GB of "
        "host memory for KV, by rules that no flag sets; one client"
    ) in told


def test_flags_of_servers_say_where_experts_are_whole() -> None:
    asked = Settings(model="mixtral-8x7b", gpu="h100", tp=4, expert_parallel=True)
    for engine, flags in (
        ("vllm", "--tensor-parallel-size 4 --enable-expert-parallel"),
        ("sglang", "--tp-size 4 --ep-size 4"),
    ):
        (told,) = flags_assumed(replace(asked, engine=engine))
        assert flags in told
        (told,) = flags_assumed(replace(asked, engine=engine, expert_parallel=False))
        assert "--ep-size" not in told
        assert "--enable-expert-parallel" not in told


def test_memory_is_told_as_servers_tell_it() -> None:
    """In all, so that it can be held against what they say."""
    asked = Settings(model="gpt-oss-120b", gpu="h200", engine="vllm")
    (told,) = memory_told(asked)
    held = asked.system.kv_blocks * 16
    assert f"{held:,} tokens, beside 65.2 GB of weights" in told
    assert f"{held * asked.system.kv_bytes_per_token / 1e9:,.1f} GB of KV memory" in told
    assert memory_told(replace(asked, engine="nanoflow")) == []
    little = Settings(model="kimi-k2", gpu="h200", tp=8)
    (told,) = memory_told(little)
    assert told.startswith("a replica has 30.6 GB of KV memory, 54,336 tokens, beside 1,037.7 GB ")
    # Kernels of more GPUs a replica were not measured.
    few = "so that few requests run at once; use a --gpu with more memory"
    assert told.endswith(f"{few}, or --kv-cache-dtype fp8")
    (told,) = memory_told(replace(little, kv_cache_dtype="fp8"))
    assert told.endswith(few)  # it is in fp8 already
    assert memory_told(replace(little, kv_bytes=20 * 10**9)) == []
    (told,) = memory_told(replace(little, engine="vllm"))
    assert f"{few}, or --kv-cache-dtype fp8; where the server says otherwise" in told
    (told,) = memory_told(Settings(model="llama-3.1-70b", gpu="a100-80g", tp=2))
    assert told.endswith(f"{few}, or a larger --tp")
    given = ("--trace", "demo:mixed?n=40", "--planner", "dfs", "--engine", "vllm")
    assert having("GB of KV memory", notes("plan", *given))


def test_whole_experts_on_one_gpu_are_noted() -> None:
    asked = Settings(model="qwen3-30b-a3b", gpu="h100", expert_parallel=True)
    words = "--expert-parallel is for several GPUs"
    assert having(words, pricing_notes([asked]))
    assert not having(words, pricing_notes([replace(asked, tp=2)]))
    assert not having(words, pricing_notes([asked, replace(asked, tp=2)]))  # a list of systems


def test_flags_of_servers_go_by_what_the_models_files_hold(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(KEPT_IN_FP8))
    kept = Settings(engine="vllm", gpu="h100", model=str(tmp_path))
    (told,) = flags_assumed(kept)
    assert not any(word in told for word in ("--quant", "--kv", "files with"))
    (told,) = flags_assumed(replace(kept, quantization="none", kv_cache_dtype="bf16"))
    assert "--kv-cache-dtype bfloat16" in told
    assert "and files with weights in bf16, which those of" in told


def test_steps_shorter_than_a_host_needs_are_told(tmp_path: Path) -> None:
    """A few answers of a small model on a fast GPU; many on a slower one have long steps."""
    (tmp_path / "few.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + "40,400\n" * 8)
    (tmp_path / "many.csv").write_text("num_prefill_tokens,num_decode_tokens\n" + "900,90\n" * 400)
    for trace, gpu, is_told in (
        ("few.csv", "b200", True),
        ("few.csv", "a100-80g", False),
        ("many.csv", "b200", False),
    ):
        plan = tmp_path / f"{trace}-{gpu}.parquet"
        asked = ("plan", "--trace", tmp_path / trace, "--gpu", gpu, "--engine", "vllm")
        told = having("Our own runtime’s host takes that long", notes(*asked, "-o", plan))
        assert bool(told) == is_told
        assert having("Our own runtime’s host takes that long", notes("simulate", plan)) == told
