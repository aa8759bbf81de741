"""docs/serving.md a second time, slowly: an object a request, an object a KV block, fresh sums.
`SlowCore` decides the same steps as `blendsim.serving.core.ServingCore`. It shares no code with it
and keeps no running totals, so a rule is readable here where the kernels are clever.
"""

from dataclasses import dataclass

from oracle_kv import Node, Reader, SlowCache, shared_paths

HORIZON = 256  # buckets the forecast looks ahead
LEFT, RIGHT = "left", "right"


@dataclass(frozen=True)
class World:
    """One replica's requests in plan order, and the rules it serves them by."""

    prompts: tuple[tuple[int, ...], ...]  # token ids
    outputs: tuple[int, ...]
    estimates: tuple[int, ...]
    densities: tuple[float, ...]
    root_density: float = 1.0
    capacity: int = 64  # blocks
    block: int = 4  # tokens
    budget: int = 16
    max_running: int = 8
    predicted_peak: bool = True
    sharing: bool = True
    dual: bool = False
    first: int = 0  # sampled requests
    output_reserved: float = 0.5
    multiple: int = 1  # of a step's tokens where the last prompt can be cut to it
    keeps_own: bool = False
    oldest_first: bool = False  # leave first, of those that end in one step
    knows_plan: bool = False  # eviction
    host: int = 0  # blocks
    watermark: int = 0  # blocks that stay free when a request enters beside others
    slice: int = 0  # tokens of a prompt a step computes at most
    interval: int = 1  # steps from one that computes prompts to the next
    cascade: bool = False  # a prefix is read once for all that decode behind it
    window: int = 0  # blocks a request holds besides while it runs


@dataclass(eq=False, kw_only=True)
class Job(Reader):
    """A request on its way through the engine."""

    prompt: int  # tokens
    output: int
    estimate: int
    density: float
    expected: int = 0
    status: str = "waiting"  # waiting, prefill, decode, done
    generated: int = 0
    side: str = LEFT
    was_preempted: bool = False
    entry: int = 0  # step of admission
    size: int = 0  # private tokens it is taken to hold at admission
    reserved: int = 0  # tokens it counts with on its side
    end: int = 0  # expected end
    bucket: int = 0  # where that end is listed
    listing: int = 0  # the how-manieth listing that was


def paths(world: World) -> list[list[Node]]:
    """Each request's shared prefix nodes."""
    if not world.sharing:
        return [[] for _ in world.prompts]
    return shared_paths(world.prompts, world.block)


class SlowCore:
    """The step loop. `step()` decides, `counts` and `scheduled` tell, `commit()` records."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.now = 0
        self.cache = SlowCache(
            world.capacity,
            world.block,
            keeps_own=world.keeps_own and world.sharing,
            knows_plan=world.knows_plan,
            host_capacity=world.host,
            window=world.window,
        )
        self.running: list[Job] = []  # in order of admission
        self.sides: dict[str, list[Job]] = {LEFT: [], RIGHT: []}  # oldest member first
        self.requeued: list[Job] = []  # preempted, the last one on top
        self.jobs = [
            Job(
                number=k,
                prompt=len(prompt),
                output=world.outputs[k],
                estimate=max(1, world.estimates[k]),
                density=world.densities[k],
                path=path,
                expected=max(1, world.estimates[k]),
                target=len(prompt),
            )
            for k, (prompt, path) in enumerate(zip(world.prompts, paths(world), strict=True))
        ]
        for job in self.jobs:
            self.cache.wait(job, is_own=False)
        self.front = 0
        self.back = len(self.jobs) - 1
        self.listings = 0
        self.prompted = -world.interval  # steps done after the last that computed prompts
        self.backlog = 0  # requests that wait since then
        self.bucket_steps = 1 + 2 * max(job.estimate for job in self.jobs) // HORIZON
        self.counts: dict[str, int] = {}
        self.chunks: list[tuple[Job, int, int]] = []  # request, computed before, tokens
        self.decoders: list[Job] = []

    @property
    def is_done(self) -> bool:
        return all(job.status == "done" for job in self.jobs)

    def scheduled(self) -> list[tuple[int, int, int]]:
        """(request, tokens computed before, tokens now) of all that runs in this step."""
        chunks = [(job.number, before, tokens) for job, before, tokens in self.chunks]
        return sorted(chunks + [(job.number, job.computed, 1) for job in self.decoders])

    # ---- one step

    def step(self) -> None:
        self.chunks, self.decoders = [], []
        self.lost: list[int] = []  # tokens each preempted request loses
        self.hits: list[int] = []  # tokens each request admitted for the first time finds
        self.entered: list[Job] = []
        self.lost_on_host = 0
        self.cache.stored = self.cache.loaded = 0
        is_held = self.holds_prompts()
        longest = self.world.budget
        if self.world.slice and len(self.running) + self.num_waiting() > 1:
            longest = self.world.slice
        self.renew()
        if self.world.slice:
            budget = self.run_slices(longest)
        else:
            self.decode()
            budget = self.world.budget - len(self.decoders)
            if not is_held or not self.decoders:
                budget = self.continue_prompt(budget)
        if self.chunks:
            self.prompted = self.now + 1
        while not self.lost and budget > 0 and len(self.running) < self.world.max_running:
            if is_held and self.tokens_of_next() != 1:
                break
            job = self.next_request()
            if job is None:
                break
            self.enter(job)
            self.stored_before = job.stored
            if job.target - job.computed > 1:
                self.prompted = self.now + 1
            budget -= self.run_chunk(job, min(budget, longest))
        if not self.lost and not is_held:
            self.backlog = self.num_waiting()
        self.trim()
        self.counts = self.count()

    def renew(self) -> None:
        """Estimates that time has shown to be too low."""
        late = [job for job in self.running if job.bucket < self.now // self.bucket_steps]
        for job in sorted(late, key=lambda job: -job.listing):
            while job.expected <= job.generated:
                job.expected *= 2
            self.expect_end(job, self.now + job.expected - job.generated)
            if self.world.dual and job.side == LEFT and job.generated >= 2 * job.estimate:
                self.sides[LEFT].remove(job)
                job.side = RIGHT
                job.reserved = self.reservation(job)
                self.sides[RIGHT].insert(0, job)

    def holds_prompts(self) -> bool:
        """Whether prompts wait for their turn in this step."""
        decodes = any(job.status == "decode" for job in self.running)
        return decodes and not self.backlog and self.now + 1 - self.prompted < self.world.interval

    def tokens_of_next(self) -> int:
        """Tokens the next in line has to compute; 0 if nobody is, or two ends of a plan are."""
        if self.requeued:
            job = self.requeued[-1]
        elif self.front <= self.back and (not self.world.dual or self.front < self.world.first):
            job = self.jobs[self.front]
        else:
            return 0
        return job.target - self.world.block * self.cache.hit(job)

    def num_waiting(self) -> int:
        return sum(job.status == "waiting" for job in self.jobs)

    def run_slices(self, longest: int) -> int:
        """Running requests get their tokens in order of admission, decodes first if the plan has
        two ends; returns the budget that is left.
        """
        order = self.running
        if self.world.dual:
            order = sorted(order, key=lambda job: job.status != "decode")
        left, shares = self.world.budget, []
        for job in order:
            wanted = 1
            if job.status == "prefill":
                wanted = min(longest, job.target - job.computed)
            elif left == 0:
                job.status = "prefill"
                job.target = job.computed + 1
            shares.append((job, min(left, wanted)))
            left -= shares[-1][1]
        while True:
            self.decoders = [job for job, _ in shares if job.status == "decode"]
            openers = [job for job in self.decoders if job.computed % self.world.block == 0]
            slices = [(job, tokens) for job, tokens in shares if job.status == "prefill" and tokens]
            needed = len(openers) + sum(max(0, self.cache.need(*share)) for share in slices)
            if needed <= self.cache.available():
                break
            self.preempt(self.victim())
            shares = [share for share in shares if share[0].status != "waiting"]
        for job in openers:
            job.private.append(self.cache.take(job))
        for job, tokens in slices:
            self.run_chunk(job, tokens)
        return left

    def decode(self) -> None:
        """One token for every decoding request, as far as blocks suffice."""
        while True:
            self.decoders = [job for job in self.running if job.status == "decode"]
            openers = [job for job in self.decoders if job.computed % self.world.block == 0]
            if self.cache.available() >= len(openers):
                break
            self.preempt(self.victim())
        for job in openers:
            job.private.append(self.cache.take(job))

    def continue_prompt(self, budget: int) -> int:
        """The next chunk of the prompt in progress; returns the budget that is left."""
        halves = [job for job in self.running if job.status == "prefill"]
        assert len(halves) <= 1, "one prompt at most is in progress"
        if not halves or budget == 0:
            return budget
        job = halves[0]
        while self.cache.need(job, min(budget, job.target - job.computed)) > self.cache.available():
            victim = self.victim()
            self.preempt(victim)
            if victim is job:
                return 0
        self.stored_before = job.stored
        return budget - self.run_chunk(job, budget)

    def trim(self) -> None:
        """The last prompt is cut to fill a whole multiple: its chunk is undone and run again."""
        if not self.chunks or self.world.host:
            return
        job, before, tokens = self.chunks[-1]
        excess = (len(self.decoders) + sum(t for _, _, t in self.chunks)) % self.world.multiple
        if not 0 < excess < tokens:
            return
        self.chunks.pop()
        block = self.world.block
        for index in reversed(range(before // block, -(-job.computed // block))):
            is_begun = before > index * block
            is_shared = job.computed >= (index + 1) * block and index < job.path_blocks
            if not is_shared:
                if not is_begun:
                    self.cache.give(job.private.pop())
            elif index < self.stored_before:
                if is_begun:
                    job.private.append(self.cache.take(job))
            else:
                filled = [node for node in job.path if node.blocks][-1].blocks.pop()
                if is_begun:
                    filled.holders = {job.number}
                    job.private.append(filled)
                else:
                    self.cache.give(filled)
        job.computed = before
        self.run_chunk(job, tokens - excess)

    def commit(self) -> None:
        decoded = [job for job in reversed(self.running) if job.status == "decode"]
        if self.world.oldest_first:
            decoded.reverse()
        prefilled = [
            job for job in self.running if job.status == "prefill" and job.computed == job.target
        ]
        for job in decoded:
            job.computed += 1
        leaving = decoded + prefilled
        if self.world.slice:
            leaving = [job for job in self.running if job in leaving]
        for job in leaving:
            job.status = "decode"
            job.generated += 1
            if job.generated == job.output:
                self.leave(job)
                job.status = "done"
                self.counts["finished"] += 1
        self.now += 1

    def end(self, number: int) -> None:
        """Between steps: what the request has generated is its whole output."""
        job = self.jobs[number]
        if job.status == "waiting":
            self.requeued.remove(job)
            self.cache.abandon(job)
        else:
            self.leave(job)
        job.status = "done"
        job.output = job.generated
        self.counts["finished"] += 1

    def count(self) -> dict[str, int]:
        """The step by its step-log names."""
        complete = [job for job, _, _ in self.chunks if job.computed == job.target]
        late = [job for job in complete if job.generated]  # compute a decode that was put off
        prefill = [(before, tokens - (job in late)) for job, before, tokens in self.chunks]
        contexts = [job.computed + 1 for job in self.decoders] + [job.target for job in late]
        return {
            "prefill_tokens": sum(tokens for _, tokens in prefill),
            "prefill_requests": sum(tokens > 0 for _, tokens in prefill),
            "prefill_pairs": sum(q * before + q * (q + 1) // 2 for before, q in prefill),
            "decode_requests": len(contexts),
            "context_tokens": sum(contexts),
            "sampled_tokens": len(self.decoders) + len(complete),
            "hit_tokens": sum(self.hits),
            "admitted": len(self.entered),
            "finished": 0,
            "preempted": len(self.lost),
            "preempted_tokens": sum(self.lost) + self.lost_on_host,
            "running": len(self.running),
            "waiting": self.num_waiting(),
            "held_blocks": sum(bool(block.holders) for block in self.cache.blocks),
            "cached_blocks": sum(len(node.blocks) for node in self.cache.idle),
            "left_tokens": sum(job.reserved for job in self.sides[LEFT]),
            "right_tokens": sum(job.reserved for job in self.sides[RIGHT]),
            "stored_blocks": self.cache.stored,
            "loaded_blocks": self.cache.loaded,
            "shared_reads": self.shared_reads(),
        }

    def shared_reads(self) -> int:
        """Context tokens of the step's decodes that are read for another of them already."""
        if not self.world.cascade:
            return 0
        nodes = [node for job in self.decoders for node in job.path]
        twice = sum(node.length for node in nodes) - sum(node.length for node in set(nodes))
        return self.world.block * twice

    def run_chunk(self, job: Job, budget: int) -> int:
        """Compute min(budget, what is left) tokens; returns how many."""
        before = job.computed
        tokens = min(budget, job.target - before)
        self.chunks.append((job, before, tokens))
        self.cache.compute(job, tokens)
        return tokens

    # ---- coming and going

    def enter(self, job: Job) -> None:
        self.lost_on_host += self.cache.hold(job)
        job.status = "prefill"
        job.entry = self.now
        job.size = self.private_tokens(job)
        job.reserved = self.reservation(job)
        self.expect_end(job, self.now + max(1, job.expected - job.generated))
        self.running.append(job)
        self.sides[job.side].append(job)
        self.entered.append(job)
        if not job.was_preempted:
            self.hits.append(job.computed)

    def leave(self, job: Job) -> None:
        self.cache.release(job)
        self.running.remove(job)
        self.sides[job.side].remove(job)

    def preempt(self, job: Job) -> None:
        block = self.world.block
        lost = job.computed - block * min(job.computed // block, job.path_blocks)
        self.lost.append(0 if self.cache.store(job) else lost)
        self.cache.wait(job, is_own=True)
        self.leave(job)
        if job in self.decoders:
            self.decoders.remove(job)
        job.target = job.prompt + job.generated
        job.status = "waiting"
        job.was_preempted = True
        self.requeued.append(job)

    # ---- who, and whether

    def next_request(self) -> Job | None:
        """The one to admit now, taken from where it waits."""
        if self.requeued:
            return self.requeued.pop() if self.has_room(self.requeued[-1]) else None
        if self.front > self.back:
            return None
        if self.front < self.world.first or not self.world.dual:
            job = self.jobs[self.front]
            if self.world.dual and job.density < self.world.root_density:
                job.side = RIGHT
            return self.taken(job, LEFT) if self.has_room(job) else None
        left, right = (self.used(side) for side in (LEFT, RIGHT))
        share = self.shares()
        order = (LEFT, RIGHT) if left * share[RIGHT] <= right * share[LEFT] else (RIGHT, LEFT)
        for side in order:
            job = self.jobs[self.front if side == LEFT else self.back]
            used = self.used(side)
            is_within = used == 0 or used + self.reservation(job) <= share[side]
            if is_within and self.has_room(job):
                job.side = side
                return self.taken(job, side)
        return None

    def taken(self, job: Job, end: str) -> Job:
        if end == LEFT:
            self.front += 1
        else:
            self.back -= 1
        return job

    def victim(self) -> Job:
        if not self.world.dual:
            return self.running[-1]
        share = self.shares()
        over = {side: self.used(side) - share[side] for side in (LEFT, RIGHT)}
        side = LEFT if over[LEFT] >= over[RIGHT] else RIGHT
        members = self.sides[side] or self.sides[RIGHT if side == LEFT else LEFT]
        return members[-1]

    def used(self, side: str) -> int:
        return sum(job.reserved for job in self.sides[side])

    def held_length(self, newcomer: Job | None = None) -> int:
        """Blocks of nodes with readers, stored or not."""
        held = [node for job in self.running for node in job.path]
        held += newcomer.path if newcomer else []
        return sum(node.length for node in set(held))

    def shares(self) -> dict[str, float]:
        """M_L and M_R, tokens."""
        memory = float((self.world.capacity - self.held_length()) * self.world.block)
        front = max(self.front, self.world.first)
        left, right = memory / 2, memory / 2
        if front < self.back:
            dense, sparse = self.jobs[front].density, self.jobs[self.back].density
            if dense != sparse:
                left = memory * ((self.world.root_density - sparse) / (dense - sparse))
                left = min(memory, max(0.0, left))
                right = memory - left
        return {LEFT: left, RIGHT: right}

    def private_tokens(self, job: Job) -> int:
        block = self.world.block
        own = job.target - block * job.path_blocks + block // 2
        return own + block * self.world.window

    def reservation(self, job: Job) -> int:
        owed = max(1, job.expected - job.generated)
        return self.private_tokens(job) + int(self.world.output_reserved * owed)

    def has_room(self, job: Job) -> bool:
        if not self.cache.fits(job, self.world.watermark if self.running else 0):
            return False
        return not self.world.predicted_peak or not self.running or self.peak_fits(job)

    def peak_fits(self, newcomer: Job) -> bool:
        limit = (self.world.capacity - self.held_length(newcomer)) * self.world.block
        end = self.now + max(1, newcomer.expected - newcomer.generated)
        private = self.private_tokens(newcomer)
        ends = [(job.bucket, job.end, job.size - job.entry) for job in self.running]
        ends.append((self.listed(end), end, private - self.now))
        mine = self.listed(end)
        for worst in {bucket for bucket, _, _ in ends if bucket <= mine}:
            upto = (worst + 1) * self.bucket_steps
            if worst == mine:
                upto = min(upto, end)
            sizes = [
                base + (last if bucket == worst else upto)
                for bucket, last, base in ends
                if bucket >= worst
            ]
            if sum(sizes) > limit:
                return False
        return True

    def listed(self, end: int) -> int:
        return min(end // self.bucket_steps, self.now // self.bucket_steps + HORIZON - 1)

    def expect_end(self, job: Job, end: int) -> None:
        self.listings += 1
        job.end, job.bucket, job.listing = end, self.listed(end), self.listings
