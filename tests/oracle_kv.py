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
    """Prompt blocks that the same requests share; `blocks` are those stored now, from its front."""

    length: int  # blocks
    blocks: list[Block] = field(default_factory=list)
    readers: set[int] = field(default_factory=set)


@dataclass(eq=False, kw_only=True)
class Reader:
    """What the cache needs to know of a request."""

    number: int
    path: list[Node]  # from the root
    target: int = 0
    computed: int = 0  # tokens whose KV exists, this step's chunk included once it is scheduled
    private: list[Block] = field(default_factory=list)

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
                break
        return count


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

    def __init__(self, capacity: int, block: int) -> None:
        self.block = block
        self.blocks = [Block() for _ in range(capacity)]
        self.free = list(self.blocks)
        self.idle: list[Node] = []  # least recently used first

    def available(self) -> int:
        return len(self.free) + sum(len(node.blocks) for node in self.idle)

    def take(self, job: Reader) -> Block:
        """A free block, or the last one of the prefix that has been idle for longest."""
        if not self.free:
            self.free.append(next(node for node in self.idle if node.blocks).blocks.pop())
        block = self.free.pop()
        block.holders = {job.number}
        return block

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

    def fits(self, job: Reader) -> bool:
        """Whether a newcomer's blocks are there: those of its path stop being evictable."""
        room = self.available() - sum(len(node.blocks) for node in job.path if not node.readers)
        return -(-job.target // self.block) - self.hit(job) <= room

    def hold(self, job: Reader) -> None:
        """The request reads its path, and starts behind what is cached of it."""
        hit = self.hit(job)
        for node in job.path:
            if node in self.idle:
                self.idle.remove(node)
            node.readers.add(job.number)
            for block in node.blocks:
                block.holders.add(job.number)
        job.computed = hit * self.block

    def release(self, job: Reader) -> None:
        """Its own blocks are free, and prefixes that it read last are idle, deepest first."""
        for block in job.private:
            self.give(block)
        job.private = []
        for node in reversed(job.path):
            node.readers.remove(job.number)
            for block in node.blocks:
                block.holders.remove(job.number)
            if not node.readers:
                self.idle.append(node)
