"""The KV half of the slow serving twin: an object a block, an object a prefix node, fresh sums.

docs/serving.md's sections on KV blocks, eviction and host memory, read off line by line.
"""

from dataclasses import dataclass, field


@dataclass(eq=False)
class Block:
    """One KV block and the running requests that hold it; nobody holds an idle or a free one."""

    holders: set[int] = field(default_factory=set)


@dataclass(eq=False)
class Node:
    """Prompt blocks that the same requests share; `blocks` are those stored now, from its front,
    and `hosted` so many more, behind those, that are on the host. What a request leaves behind
    under `keeps_own` is a node as well, without a length.
    """

    length: int  # blocks
    blocks: list[Block] = field(default_factory=list)
    hosted: int = 0
    readers: set[int] = field(default_factory=set)
    waiting: set[int] = field(default_factory=set)  # requests that wait and will read it


@dataclass(eq=False, kw_only=True)
class Reader:
    """What the cache needs to know of a request."""

    number: int
    path: list[Node]  # from the root
    target: int = 0
    computed: int = 0  # tokens whose KV exists, this step's chunk included once it is scheduled
    private: list[Block] = field(default_factory=list)
    own: Node = field(default_factory=lambda: Node(0))  # what it left behind
    hosted: int = 0  # tokens up to which the host holds its private blocks
    window: list[Block] = field(default_factory=list)  # of layers that attend to the last tokens

    @property
    def path_blocks(self) -> int:
        return sum(node.length for node in self.path)

    @property
    def stored(self) -> int:
        """Blocks of its path that are cached without a gap from the front."""
        count = 0
        for node in self.path:
            count += len(node.blocks)
            if len(node.blocks) < node.length:
                return count
        return count + len(self.own.blocks)

    @property
    def reach(self) -> int:
        """The same with what is on the host."""
        count = 0
        for node in self.path:
            count += len(node.blocks) + node.hosted
            if len(node.blocks) + node.hosted < node.length:
                return count
        return count + len(self.own.blocks) + self.own.hosted


def common_blocks(a: tuple[int, ...], b: tuple[int, ...], block: int) -> int:
    """Full blocks two prompts begin with alike."""
    tokens = 0
    while tokens < min(len(a), len(b)) and a[tokens] == b[tokens]:
        tokens += 1
    return tokens // block


def shared_paths(prompts: tuple[tuple[int, ...], ...], block: int) -> list[list[Node]]:
    """Each prompt's shared prefix nodes. A node ends where prompts part or one of them ends."""
    nodes: dict[tuple[int, ...], Node] = {}
    found = []
    for k, prompt in enumerate(prompts):
        depths = {common_blocks(prompt, p, block) for j, p in enumerate(prompts) if j != k}
        path, above = [], 0
        for depth in sorted(depths - {0}):
            path.append(nodes.setdefault(prompt[: depth * block], Node(depth - above)))
            above = depth
        found.append(path)
    return found


class SlowCache:
    """The KV blocks of a replica: who holds which, and which go first when room is needed."""

    def __init__(
        self,
        capacity: int,
        block: int,
        keeps_own: bool = False,
        knows_plan: bool = False,
        host_capacity: int = 0,
        window: int = 0,
    ) -> None:
        self.block = block
        self.keeps_own = keeps_own
        self.knows_plan = knows_plan
        self.host_capacity = host_capacity
        self.window = window  # blocks that each request holds for it while it runs
        self.host: list[Node] = []  # nodes, by when they last got a block there
        self.away: list[Reader] = []  # preempted requests with private blocks on the host
        self.stored = 0  # blocks moved to the host in this step
        self.loaded = 0  # and from it
        self.blocks = [Block() for _ in range(capacity)]
        self.free = list(self.blocks)
        self.idle: list[Node] = []  # least recently used first

    def available(self) -> int:
        return len(self.free) + sum(len(node.blocks) for node in self.idle)

    def take(self, job: Reader) -> Block:
        """A free block, or the last one of the prefix that has been idle for longest."""
        if not self.free:
            self.evict()
        block = self.free.pop()
        block.holders = {job.number}
        return block

    def evict(self) -> None:
        """Make one block free."""
        idle = [node for node in self.idle if node.blocks]
        if self.knows_plan:
            idle = [n for n in idle if not n.waiting] + [n for n in idle if n.waiting]
        self.free.append(idle[0].blocks.pop())
        if self.knows_plan and not idle[0].waiting:
            idle[0].hosted = 0
        elif self.host_capacity > self.private_on_host():
            if idle[0] in self.host:
                self.host.remove(idle[0])
            self.host.append(idle[0])
            idle[0].hosted += 1
            self.stored += 1
            self.make_host_room()

    def make_host_room(self) -> None:
        """Forget the oldest blocks that are more than the host holds."""
        while self.private_on_host() + sum(n.hosted for n in self.host) > self.host_capacity:
            next(node for node in self.host if node.hosted).hosted -= 1

    def private_on_host(self) -> int:
        return sum(self.private_blocks(job, job.hosted) for job in self.away)

    def private_blocks(self, job: Reader, tokens: int) -> int:
        return -(-tokens // self.block) - min(tokens // self.block, job.path_blocks)

    def give(self, block: Block) -> None:
        block.holders = set()
        self.free.append(block)

    def need(self, job: Reader, tokens: int) -> int:
        """Blocks missing to compute `tokens` more: those it holds then, less what is there."""
        after = job.computed + tokens
        shared = min(after // self.block, job.path_blocks)
        private = -(-after // self.block) - shared
        return private - len(job.private) + max(0, shared - job.stored)

    def compute(self, job: Reader, tokens: int) -> None:
        """Give the next `tokens` their places, block by block."""
        block, before = self.block, job.computed
        job.computed += tokens
        above = 0
        for node in job.path:  # what will be on the GPU leaves the host
            fresh = min(job.computed // block - above, node.length) - len(node.blocks)
            node.hosted -= min(max(0, fresh), node.hosted)
            above += node.length
        for index in range(before // block, -(-job.computed // block)):
            is_begun = before > index * block
            if job.computed < (index + 1) * block or index >= job.path_blocks:
                if not is_begun:
                    job.private.append(self.take(job))
            elif index < job.stored:
                if is_begun:
                    self.give(job.private.pop())
            else:
                filled = job.private.pop() if is_begun else self.take(job)
                node = next(node for node in job.path if len(node.blocks) < node.length)
                node.blocks.append(filled)
                filled.holders = set(node.readers)

    def hit(self, job: Reader) -> int:
        """Blocks it starts behind: at least one token is left to compute."""
        return min(job.stored, (job.target - 1) // self.block)

    def fits(self, job: Reader, kept_free: int = 0) -> bool:
        """Whether a newcomer's blocks are there: those of its path stop being evictable."""
        mine = [node for node in [*job.path, job.own] if not node.readers]
        room = self.available() - sum(len(node.blocks) for node in mine)
        needed = -(-job.target // self.block) - self.hit(job) + self.window
        return needed + kept_free <= room

    def hold(self, job: Reader) -> int:
        """The request reads its path, and starts behind what is cached of it or on the host.
        Returns the tokens that the host kept for nothing.
        """
        hit = min(job.reach, (job.target - 1) // self.block)
        for node in [*job.path, job.own]:
            if node in self.idle:
                self.idle.remove(node)
            node.waiting.discard(job.number)
        for node in job.path:
            node.readers.add(job.number)
            for block in node.blocks:
                block.holders.add(job.number)
        job.private, job.own.blocks = job.own.blocks, []
        for block in job.private:
            block.holders = {job.number}
        job.window = [self.take(job) for _ in range(self.window)]
        return self.load(job, hit)

    def load(self, job: Reader, hit: int) -> int:
        """Start behind `hit` blocks, or where it was when it was preempted, if that is further and
        its path is there. Everything leaves the host before room is made for it.
        """
        lost = 0
        job.computed = hit * self.block
        private = hit - job.path_blocks - len(job.private) if self.keeps_own else 0
        job.own.hosted -= max(0, private)
        if job in self.away:
            begun = min(job.hosted // self.block, job.path_blocks)
            if job.hosted > job.computed and job.reach >= begun:
                job.computed = job.hosted
                private = self.private_blocks(job, job.hosted)
            else:
                lost = max(0, job.hosted - max(job.computed, begun * self.block))
            self.away.remove(job)
            job.hosted = 0
        above, moved = 0, []
        for node in job.path:
            number = min(job.computed // self.block - above, node.length) - len(node.blocks)
            node.hosted -= max(0, number)
            moved += [node] * number
            above += node.length
        for node in moved:
            node.blocks.append(self.take(job))
            node.blocks[-1].holders = set(node.readers)
        for _ in range(private):
            job.private.append(self.take(job))
        self.loaded += len(moved) + max(0, private)
        return lost

    def store(self, job: Reader) -> bool:
        """Keep the private blocks of a request that is being preempted, if they find room."""
        number = self.private_blocks(job, job.computed)
        if self.keeps_own or not 0 < number <= self.host_capacity - self.private_on_host():
            return False
        job.hosted = job.computed
        self.away.append(job)
        self.stored += number
        self.make_host_room()
        return True

    def wait(self, job: Reader, is_own: bool) -> None:
        """The request will read its path, and what it leaves behind if it has been in."""
        for node in [*job.path, job.own] if is_own else job.path:
            node.waiting.add(job.number)

    def abandon(self, job: Reader) -> None:
        """The request, which waits to come back, will not: what idles for nobody now is young."""
        for node in [job.own, *reversed(job.path)]:
            node.waiting.discard(job.number)
            if self.knows_plan and not node.waiting and node in self.idle:
                self.idle.remove(node)
                self.idle.append(node)
        job.own.hosted = job.hosted = 0
        if job in self.away:
            self.away.remove(job)

    def release(self, job: Reader) -> None:
        """Its own blocks are free, or idle the full ones that it keeps, but for its window, and
        prefixes that it read last are idle, deepest first.
        """
        kept = max(0, job.computed // self.block - job.path_blocks) if self.keeps_own else 0
        job.own.blocks, free = job.private[:kept], job.private[kept:]
        for block in job.own.blocks:
            block.holders = set()
        if kept:
            self.idle.append(job.own)
        for block in free + job.window:
            self.give(block)
        job.private, job.window = [], []
        for node in reversed(job.path):
            node.readers.remove(job.number)
            for block in node.blocks:
                block.holders.remove(job.number)
            if not node.readers:
                self.idle.append(node)
