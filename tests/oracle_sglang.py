"""docs/sglang.md a second time, slowly: a cache that knows every token by its
whole prefix, an object a request, fresh sums. It shares words and the two sides of dual scan with
`oracle_serving`, and nothing with the kernels.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from oracle_serving import LEFT, RIGHT, Job, SlowCore, World

CLIP = 4_096
Key = tuple[int, ...]  # a shared token: its prompt up to it; an own one: (), request, place


@dataclass(frozen=True)
class RoundWorld(World):
    """A world served in rounds."""

    limits: tuple[int, ...] = ()  # output limits, 0 for a length that is forced
    mixed: bool = False
    order: str = "fcfs"
    conservativeness: float = 1.0


@dataclass(eq=False)
class Guest(Job):
    """A request, the memory it holds and what of it others can find."""

    tokens: tuple[int, ...] = ()
    limit: int = 0
    is_fixed: bool = True
    shared: int = 0  # tokens of its prompt that another request begins with too
    held: int = 0  # tokens it has memory for
    published: int = 0  # of those, the ones computed before this step

    @cached_property
    def shared_keys(self) -> list[tuple[Key, int, int]]:
        return [(self.tokens[: place + 1], 0, 0) for place in range(self.shared)]

    def key(self, place: int) -> tuple[Key, int, int]:
        """The name of its token at a place."""
        return self.shared_keys[place] if place < self.shared else ((), self.number, place)

    @property
    def alone(self) -> int:
        """Tokens that it holds for itself."""
        return self.held - min(self.published, self.shared)

    @property
    def may_generate(self) -> int:
        return min(self.limit - self.generated, CLIP)


def common(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    """Tokens two prompts begin with alike."""
    return next(
        (i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b))
    )


class SlowRounds(SlowCore):
    """The step loop of an engine that works in rounds."""

    def __init__(self, world: RoundWorld) -> None:
        super().__init__(world)
        self.rules = world
        self.blocks = []  # tokens have names here, and no places
        self.guests = [
            Guest(
                **{name: getattr(job, name) for name in Job.__dataclass_fields__},
                tokens=world.prompts[job.number],
                limit=max(world.limits[job.number], job.output),
                is_fixed=world.limits[job.number] == 0,
            )
            for job in self.jobs
        ]
        for guest in self.guests if world.sharing else []:
            others = [other.tokens for other in self.guests if other is not guest]
            guest.shared = max((common(guest.tokens, tokens) for tokens in others), default=0)
        self.jobs = list(self.guests)
        self.line: list[Guest] = [] if world.dual else list(self.guests)
        self.radix: dict[tuple[Key, int, int], int] = {}  # when each token was last of use
        self.clock = 0
        self.lost_on_host = 0
        self.ratio = min(1.0, 0.7 * world.conservativeness)
        self.least = 0.14 * self.ratio
        self.decay = (self.ratio - self.least) / 600
        self.is_full = False
        self.passes = 0
        self.promised = 0
        self.half: Guest | None = None  # the prompt in progress
        self.started: list[Guest] = []  # those that decode, in the order in which they began to

    # ---- memory

    def members(self) -> list[Guest]:
        return [job for job in self.running if isinstance(job, Guest)]

    def held_keys(self) -> set[tuple[Key, int, int]]:
        paths = [key for guest in self.members() for key in guest.shared_keys]
        return set(paths) & self.radix.keys()

    def available(self) -> int:
        private = sum(guest.alone for guest in self.members())
        return self.world.capacity - private - len(self.held_keys())

    def take_tokens(self, number: int) -> None:
        """Evict until `number` tokens are free."""
        idle = sorted(set(self.radix) - self.held_keys(), key=self.radix.__getitem__)
        for key in idle[: max(0, number - (self.available() - len(idle)))]:
            del self.radix[key]

    def touch(self, guest: Guest, upto: int) -> None:
        """What nobody holds of its first tokens is young again, the front youngest."""
        held = self.held_keys()
        for place in reversed(range(upto)):
            key = guest.key(place)
            if key in self.radix and key not in held:
                self.clock += 1
                self.radix[key] = self.clock

    def matched(self, guest: Guest) -> int:
        """Tokens of it that are cached."""
        place = 0
        while place < guest.target and guest.key(place) in self.radix:
            place += 1
        return place

    def room(self) -> float:
        fixed = sum(g.may_generate for g in self.decoding() if g.is_fixed)
        limited = sum(g.may_generate for g in self.decoding() if not g.is_fixed)
        return self.available() - self.promised - (fixed + self.ratio * limited)

    # ---- one step

    def decoding(self) -> list[Guest]:
        return [guest for guest in self.members() if guest.status == "decode"]

    def waiting(self) -> list[Guest]:
        return [guest for guest in self.guests if guest.status == "waiting"]

    def step(self) -> None:
        self.chunks, self.decoders, self.lost, self.hits, self.entered = [], [], [], [], []
        self.renew()
        if self.is_prefill_due():
            self.prefill()
        if not self.chunks:
            if len(self.decoding()) > self.available():
                self.retract()
            else:
                self.ratio = max(self.ratio - self.decay, self.least)
            self.decoders = list(self.decoding())
        elif self.rules.mixed and len(self.decoding()) <= self.available():
            self.decoders = list(self.decoding())
        self.take_tokens(len(self.decoders))
        for guest in self.decoding() if self.decoders else []:
            guest.held += 1
        idle = set(self.radix) - self.held_keys()
        private = sum(guest.alone for guest in self.members())
        self.counts = self.count() | {
            "held_blocks": private + len(self.held_keys()),
            "cached_blocks": len(idle),
        }

    def is_prefill_due(self) -> bool:
        if not self.decoding():
            self.is_full = False
        if self.half is not None:
            return True
        if self.is_full or not self.waiting():
            return False
        if len(self.running) >= self.world.max_running:
            self.is_full = True
            return False
        return True

    def prefill(self) -> None:
        self.promised = len(self.decoding()) if self.rules.mixed else 0
        budget = self.world.budget - self.promised
        self.sort_line()
        if self.half is not None:
            tokens = min(budget, self.half.target - self.half.computed, self.available())
            if self.room() >= 1:
                tokens = min(tokens, int(self.room()))
            if tokens == 0:
                return
            budget -= self.compute(self.half, tokens)
        while budget > 0 and self.waiting():
            has_place = len(self.running) < self.world.max_running
            guest = self.next_guest() if has_place else None
            if guest is None:
                self.is_full = True
                break
            self.start(guest)
            budget -= self.compute(guest, min(budget, guest.target - guest.computed))
            if self.room() <= 0:
                self.is_full = True
                break
        # Memory is taken when the round is complete: nothing is evicted in between.
        self.take_tokens(sum(tokens for _, _, tokens in self.chunks))
        for job, _, tokens in self.chunks:
            assert isinstance(job, Guest)
            job.held += tokens

    def compute(self, guest: Guest, tokens: int) -> int:
        self.chunks.append((guest, guest.computed, tokens))
        guest.computed += tokens
        is_whole = guest.computed == guest.target
        self.half = None if is_whole else guest
        self.promised += tokens + 1 + (min(guest.limit, CLIP) if is_whole else 0)
        return tokens

    def commit(self) -> None:
        done = sum(guest.status == "done" for guest in self.guests)
        halves = self.half is not None
        if self.chunks and (self.decoders or not self.decoding() or halves):
            self.is_full = False
        for job, _, _ in self.chunks:
            assert isinstance(job, Guest)
            for place in range(min(job.computed, job.shared)):
                self.radix.setdefault(job.key(place), 0)
            job.published = job.computed
        decoded = self.decoding() if self.decoders else []
        complete = [job for job, _, _ in self.chunks if job.computed == job.target]
        for guest in decoded:
            guest.computed += 1
            guest.published = guest.computed
        for job in [*complete, *sorted(decoded, key=lambda guest: self.started.index(guest))]:
            assert isinstance(job, Guest)
            job.status = "decode"
            job.generated += 1
            if job.generated == job.output:
                self.go(job, job.computed)
                job.status = "done"
                self.counts["finished"] += 1
            elif job in complete:
                self.started.append(job)
        self.now += bool(self.decoders)
        if sum(guest.status == "done" for guest in self.guests) > done:
            self.is_full = False

    # ---- coming and going

    def start(self, guest: Guest) -> None:
        own = [key for key in self.radix if key[0] == () and key[1] == guest.number]
        guest.computed = guest.held = guest.published = min(self.matched(guest), guest.target - 1)
        assert guest.alone == len(own), "what it left behind is its own again"
        for key in own:
            del self.radix[key]
        guest.status = "prefill"
        guest.entry = self.now
        guest.size = self.private_tokens(guest)
        guest.reserved = self.reservation(guest)
        self.expect_end(guest, self.now + max(1, guest.expected - guest.generated))
        self.running.append(guest)
        self.sides[guest.side].append(guest)
        self.entered.append(guest)
        if not guest.was_preempted:
            self.hits.append(guest.computed)

    def go(self, guest: Guest, kept: int) -> None:
        """Leave; the first `kept` tokens stay cached."""
        self.running.remove(guest)
        self.sides[guest.side].remove(guest)
        if self.world.sharing:
            for place in range(guest.shared, kept):
                self.radix[guest.key(place)] = 0
        self.touch(guest, max(kept, guest.shared))
        guest.held = guest.published = 0
        if guest in self.started:
            self.started.remove(guest)

    def throw_out(self, guest: Guest) -> None:
        self.lost.append(guest.computed - min(guest.computed, guest.shared))
        self.go(guest, guest.target if guest.status == "decode" else guest.computed)
        if self.half is guest:
            self.half = None
        guest.target = guest.prompt + guest.generated
        guest.status = "waiting"
        guest.was_preempted = True
        self.line.append(guest)

    def retract(self) -> None:
        while len(self.decoding()) > 1:
            # Of equals the last admitted, on the left side before the right one.
            newest_first = [*reversed(self.sides[LEFT]), *reversed(self.sides[RIGHT])]
            victim = min(
                [
                    guest
                    for guest in newest_first
                    if isinstance(guest, Guest) and guest in self.started
                ],
                key=lambda guest: (guest.generated, -guest.prompt),
            )
            self.throw_out(victim)
            self.take_tokens(min(20 * len(self.decoding()), self.available()))
            if len(self.decoding()) <= self.available():
                break
        if len(self.decoding()) > self.available():
            assert self.half is not None, "one request alone always fits"
            self.throw_out(self.half)
        generated = sum(guest.generated for guest in self.decoding())
        limits = sum(guest.limit for guest in self.decoding())
        self.ratio = min(1.0, (generated + 20 * len(self.decoding())) / (limits + 1))
        self.is_full = False

    # ---- who is next

    def can_join(self, guest: Guest) -> bool:
        """Else the look into the cache keeps young what it found."""
        if not self.running:
            return True
        held = self.held_keys()
        hit = min(self.matched(guest), guest.target - 1)
        upto = max(guest.shared, self.matched(guest))
        idle = [guest.key(i) for i in range(upto) if guest.key(i) in self.radix]
        need = guest.target - hit + 1 + guest.may_generate
        if need < self.room() - len([key for key in idle if key not in held]):
            return True
        self.touch(guest, guest.target)
        return False

    def next_guest(self) -> Guest | None:
        world = self.world
        if not world.dual or self.front > self.back:
            return self.line.pop(0) if self.can_join(self.line[0]) else None
        if self.front < world.first:
            guest = self.guests[self.front]
            if guest.density < world.root_density:
                guest.side = RIGHT
            if not self.can_join(guest):
                guest.side = LEFT
                return None
            self.front += 1
            return guest
        left, right = self.used(LEFT), self.used(RIGHT)
        share = self.shares()
        sides = (LEFT, RIGHT) if left * share[RIGHT] <= right * share[LEFT] else (RIGHT, LEFT)
        for side in sides:
            guest = self.guests[self.front if side == LEFT else self.back]
            used = self.used(side)
            is_within = used == 0 or used + self.reservation(guest) <= share[side]
            if is_within and self.can_join(guest):
                self.taken(guest, side)
                guest.side = side
                return guest
        return None

    def shares(self) -> dict[str, float]:
        """As in `SlowCore`, rounded as in the paper's formula: the share first, then the memory."""
        memory = float((self.world.capacity - self.held_length()) * self.world.block)
        front, fraction = max(self.front, self.world.first), 0.5
        if front < self.back:
            dense, sparse = self.jobs[front].density, self.jobs[self.back].density
            if dense != sparse:
                fraction = (self.world.root_density - sparse) / (dense - sparse)
        left = memory * min(1.0, max(0.0, fraction))
        return {LEFT: left, RIGHT: memory - left}

    def sort_line(self) -> None:
        if not self.waiting():
            return
        has_prefixes = any(guest.shared for guest in self.guests) or self.world.sharing
        sorts = has_prefixes and not self.world.dual
        if sorts and self.rules.order == "dfs-weight":
            for guest in self.line:
                self.touch(guest, guest.target)
            self.line = list(self.below(self.line, 0))
        elif sorts and self.rules.order == "lpm" and len(self.line) <= 128:
            self.sort_by_prefix()
        else:
            self.passes += 1
            if self.passes % 32 == 1:
                for guest in reversed(self.next_128()):
                    self.touch(guest, guest.target)

    def next_128(self) -> list[Guest]:
        if not self.world.dual or self.front > self.back:
            return self.line[:128]
        ends = range(self.front, self.back + 1)
        turns = [ends[i // 2] if i % 2 == 0 else ends[-1 - i // 2] for i in range(len(ends))]
        return [self.guests[k] for k in turns[:128]]

    def sort_by_prefix(self) -> None:
        compared: list[tuple[int, ...]] = []
        keys = {}
        for guest in self.line:
            self.touch(guest, guest.target)
            hit = self.matched(guest)
            keys[guest.number] = -min(hit, guest.target - 1)
            if hit <= 32:
                if max((common(guest.tokens, tokens) for tokens in compared), default=0) >= 32:
                    keys[guest.number] = 1
                else:
                    compared.append(guest.tokens)
        self.line.sort(key=lambda guest: keys[guest.number])

    def below(self, guests: list[Guest], depth: int) -> Iterator[Guest]:
        """Requests that find the same first `depth` tokens: those that find more, then the rest."""
        groups: dict[tuple[Key, int, int], list[Guest]] = {}
        for guest in guests:
            if guest.key(depth) in self.radix:
                groups.setdefault(guest.key(depth), []).append(guest)
        is_own = {key: key[0] == () for key in groups}
        for key in sorted(groups, key=lambda key: (-len(groups[key]), is_own[key], key)):
            yield from self.below(groups[key], depth + 1)
        yield from [guest for guest in guests if guest.key(depth) not in self.radix]
