"""Steps vLLM's own scheduler, without a GPU, while it follows plans.

    python tests/vllm_oracle/follow.py JOBS.pickle > runs.json

Runs inside the environment of requirements.txt with the checkout on PYTHONPATH. JOBS.pickle has a
list of (name, job, case). A case has `lengths` (tokens that each row's model would answer),
`is_async` and `is_plain`, and perhaps `blocks` (vLLM's KV blocks if not the job's) and `told` (as
many as the plan believes in, if not those). A run has `steps` (tokens and requests scheduled,
requests admitted, preempted, KV blocks in use, of every step that computed something), `answered`
(tokens of every row), `course`, and `seconds` spent in schedule().
"""

import json
import pickle
import sys
import tempfile
import time
from collections import deque
from dataclasses import asdict
from pathlib import Path

from record import BLOCK, LLAMA, scheduler_of

END = 5  # the token that ends an answer


def requests_of(job, rows, most):
    """vLLM's requests, in that order."""
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    from blendrt.tokens import PromptTokens
    from blendrt.vllm.following import ROW

    init_none_hash(sha256)
    hasher = get_request_block_hasher(BLOCK, sha256) if job.flavour.prefix_sharing else None
    tokens = PromptTokens(job.workload, 128_256, 0)
    for place, row in enumerate(rows):
        params = SamplingParams(
            max_tokens=int(most[row]), stop_token_ids=[END], extra_args={ROW: row}
        )
        params.update_from_generation_config({}, None)
        yield Request(
            request_id=f"request {row}",
            prompt_token_ids=tokens.prompt(row).tolist(),
            sampling_params=params,
            pooling_params=None,
            arrival_time=float(place),
            block_hasher=hasher,
        )


def run(job, case, folder):
    """Run the job to its end; returns what `main` writes of it."""
    from blendrt.vllm.feed import admission_rows
    from blendrt.vllm.lead import leading_core

    scheduler = scheduler_of(
        folder,
        case.get("blocks", job.system.kv_blocks),
        job.flavour.prefix_sharing,
        max_num_batched_tokens=job.flavour.token_budget,
        max_num_seqs=job.flavour.max_running,
        async_scheduling=case["is_async"],
        scheduler_cls="blendrt.vllm.scheduler.PlannedScheduler",
    )
    lengths = case["lengths"]
    if not case["is_plain"]:
        told = case.get("told", scheduler.blocks_to_give)
        scheduler.follow(leading_core(job, 0, told))
    for request in requests_of(job, admission_rows(job.core(0)), job.output_len):
        scheduler.add_request(request)
    pool = scheduler.kv_cache_manager.block_pool
    steps, answered, seconds = [], {}, 0.0
    pending = deque()
    idle = 0

    def take():
        output, sampled = pending.popleft()
        for told in scheduler.update_from_output(output, model_output(sampled)).values():
            for each in told.outputs:
                row = int(each.request_id.split()[1])
                answered[row] = answered.get(row, 0) + len(each.new_token_ids)

    while scheduler.has_unfinished_requests():
        before = {request.request_id for request in scheduler.running}
        begun = time.perf_counter()
        output = scheduler.schedule()
        seconds += time.perf_counter() - begun
        tokens = output.num_scheduled_tokens
        idle = 0 if tokens else idle + 1
        assert idle < 50, f"step {len(steps)}: nothing runs though requests are left"
        if tokens:
            now = {request.request_id for request in scheduler.running}
            out = output.preempted_req_ids or ()
            held = pool.num_gpu_blocks - 1 - pool.get_num_free_blocks()
            admitted = sum(name not in before for name in now)
            steps.append([sum(tokens.values()), len(tokens), admitted, len(out), held])
        sampled = {}
        for name in tokens:
            request, row = scheduler.requests[name], int(name.split()[1])
            number = request.num_computed_tokens - request.num_prompt_tokens + 1
            token = END if number >= lengths[row] else 20_000_000 + row
            sampled[name] = [] if request.is_prefill_chunk else [token]
        pending.append((output, sampled))
        if len(pending) > int(case["is_async"]) or not tokens:
            take()
    result = {"steps": steps, "answered": answered, "seconds": seconds}
    if not case["is_plain"]:
        result["course"] = asdict(scheduler.unfollow())
    return result


def model_output(sampled):
    """What a model would return."""
    from vllm.v1.outputs import ModelRunnerOutput

    names = list(sampled)
    return ModelRunnerOutput(
        req_ids=names,
        req_id_to_index={name: place for place, name in enumerate(names)},
        sampled_token_ids=[sampled[name] for name in names],
    )


def main():
    """Read jobs, write runs."""
    out, sys.stdout = sys.stdout, sys.stderr  # vLLM may print
    import vllm

    jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        runs = {name: run(job, case, folder) for name, job, case in jobs}
    json.dump({"vllm": vllm.__version__, "runs": runs}, out, separators=(",", ":"))


if __name__ == "__main__":
    main()
