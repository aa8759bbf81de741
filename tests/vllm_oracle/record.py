"""Steps vLLM's own scheduler, without a GPU, and writes down what every step scheduled.

    python tests/vllm_oracle/record.py < worlds.json > recordings.json

Runs inside the environment of requirements.txt (`make vllm-env`), knows nothing of blendsim, and
reads and writes JSON: {"worlds": [...]} in, {"vllm": version, "recordings": [...]} out. A world has
`prompts` (token ids of a request, or how many tokens of its own), `outputs` (tokens it will
generate), `capacity` (KV blocks), `budget`, `max_running`, `sharing`, `digest`, and perhaps `knobs`
(settings of vLLM's scheduler by name) and `stages` (of a pipeline: so many steps are scheduled
before the first of them is known, as in `step_with_batch_queue` of v1/engine/core.py). A recording
has a row a step that computes something: `steps` ([[request, computed before, tokens], ...] by
request, or a digest of that list), `preempted` (requests, sorted, with those thrown out since the
row before) and `held` (blocks in use, as schedule() leaves them).
"""

import hashlib
import json
import sys
import tempfile
from collections import deque
from pathlib import Path

BLOCK = 16  # tokens
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "torch_dtype": "bfloat16",
}


def token_ids(prompt, number):
    """A prompt's ids; content given as a length only is the request's own."""
    return prompt if isinstance(prompt, list) else [10_000_000 + number] * prompt


def scheduler_of(folder, blocks, sharing, **asked):
    """vLLM's scheduler with so many KV blocks to give, at default settings but for what is asked:
    fields of SchedulerConfig.
    """
    import torch
    from vllm.config import (
        CacheConfig,
        DeviceConfig,
        ModelConfig,
        ParallelConfig,
        SchedulerConfig,
        VllmConfig,
    )
    from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec
    from vllm.v1.structured_output import StructuredOutputManager

    model = ModelConfig(model=folder, skip_tokenizer_init=True, dtype="bfloat16")
    config = VllmConfig(
        model_config=model,
        cache_config=CacheConfig(
            block_size=BLOCK,
            gpu_memory_utilization=0.9,
            enable_prefix_caching=sharing,
        ),
        scheduler_config=SchedulerConfig(
            max_model_len=model.max_model_len,
            is_encoder_decoder=False,
            enable_chunked_prefill=True,
            **asked,
        ),
        parallel_config=ParallelConfig(),
        device_config=DeviceConfig("cpu"),
    )
    # NOTE: one block more: vLLM keeps the first one as its null block.
    config.cache_config.num_gpu_blocks = blocks + 1
    spec = FullAttentionSpec(block_size=BLOCK, num_kv_heads=8, head_size=128, dtype=torch.bfloat16)
    return config.scheduler_config.get_scheduler_cls()(
        vllm_config=config,
        kv_cache_config=KVCacheConfig(
            num_blocks=blocks + 1,
            kv_cache_tensors=[],
            kv_cache_groups=[KVCacheGroupSpec(["layer"], spec)],
        ),
        structured_output_manager=StructuredOutputManager(config),
        block_size=BLOCK,
        hash_block_size=BLOCK,
        log_stats=False,
    )


def requests_of(world):
    """The world's requests, in order, all there from the start."""
    from vllm.sampling_params import SamplingParams
    from vllm.utils.hashing import sha256
    from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
    from vllm.v1.request import Request

    init_none_hash(sha256)
    hasher = get_request_block_hasher(BLOCK, sha256) if world["sharing"] else None
    for number, (prompt, output) in enumerate(zip(world["prompts"], world["outputs"], strict=True)):
        params = SamplingParams(max_tokens=output, ignore_eos=True)
        params.update_from_generation_config({}, None)
        yield Request(
            request_id=str(number),
            prompt_token_ids=token_ids(prompt, number),
            sampling_params=params,
            pooling_params=None,
            arrival_time=float(number),
            block_hasher=hasher,
        )


def record(world, folder):
    """Run the world to its end; returns its recording."""
    from vllm.v1.outputs import ModelRunnerOutput

    scheduler = scheduler_of(
        folder,
        world["capacity"],
        world["sharing"],
        max_num_batched_tokens=world["budget"],
        max_num_seqs=world["max_running"],
        async_scheduling=False,
        **world.get("knobs", {}),
    )
    for request in requests_of(world):
        scheduler.add_request(request)
    pool = scheduler.kv_cache_manager.block_pool
    steps, preempted, held = [], [], []
    on_their_way, out_before = deque(), []  # thrown out by steps that compute nothing

    def take_back():
        output, names, sampled = on_their_way.popleft()
        scheduler.update_from_output(
            output,
            ModelRunnerOutput(
                req_ids=names,
                req_id_to_index={name: place for place, name in enumerate(names)},
                sampled_token_ids=sampled,
            ),
        )

    while scheduler.has_unfinished_requests():
        if len(on_their_way) == world.get("stages", 1):
            take_back()
            continue
        output = scheduler.schedule()
        tokens = output.num_scheduled_tokens
        if not tokens:  # what the pipeline is given then is empty, and takes its place
            assert any(names for _, names, _ in on_their_way), (
                f"step {len(steps)}: nothing can run though requests are left"
            )
            out_before += map(int, output.preempted_req_ids or ())
            on_their_way.append((output, [], []))
            continue
        rows, sampled = [], []
        for name, number in tokens.items():
            request = scheduler.requests[name]
            # NOTE: schedule() has already counted this step's tokens as computed.
            rows.append([int(name), request.num_computed_tokens - number, number])
            is_sampled = request.num_computed_tokens == request.num_tokens
            # what a request generates is its own: it makes no block that another finds
            sampled.append([20_000_000 + int(name)] if is_sampled else [])
        rows.sort()
        if world["digest"]:
            rows = hashlib.sha256(json.dumps(rows, separators=(",", ":")).encode()).hexdigest()[:8]
        steps.append(rows)
        preempted.append(sorted([*out_before, *map(int, output.preempted_req_ids or ())]))
        out_before = []
        held.append(pool.num_gpu_blocks - 1 - pool.get_num_free_blocks())
        on_their_way.append((output, list(tokens), sampled))
    return {"steps": steps, "preempted": preempted, "held": held}


def main():
    """Read worlds, write recordings."""
    import vllm

    worlds = json.load(sys.stdin)["worlds"]
    out, sys.stdout = sys.stdout, sys.stderr  # vLLM may print
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(LLAMA))
        recordings = [record(world, folder) for world in worlds]
    json.dump({"vllm": vllm.__version__, "recordings": recordings}, out, separators=(",", ":"))


if __name__ == "__main__":
    main()
