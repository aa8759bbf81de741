"""vLLM's queue of waiting requests with a gate before it: a step sees those that were let in, and
no others. While the gate stands open it is vLLM's own queue, first come, first served.

It has the methods of vLLM's `RequestQueue` and needs nothing of vLLM.
"""

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Any


class Gate:
    """Requests that wait, by id; `len` counts them all, `bool`, peek and pop know those let in."""

    def __init__(self, requests: Iterable[Any] = ()) -> None:
        self._waiting: OrderedDict[str, Any] = OrderedDict()
        self._inside: deque[str] | None = None  # None: the gate stands open
        for request in requests:
            self.add_request(request)

    def let_in(self, requests: Iterable[Any]) -> None:
        """From now on these may enter, in this order, and nobody else; those that are not here are
        passed over, since vLLM has them wait for something else.
        """
        names = (request.request_id for request in requests)
        self._inside = deque(name for name in names if name in self._waiting)

    def stand_open(self) -> None:
        """All may enter, those thrown out first, the others as they came."""
        self._inside = None

    def add_request(self, request: Any) -> None:
        """Behind all others."""
        self._waiting[request.request_id] = request

    def prepend_request(self, request: Any) -> None:
        """Before all others; through the gate only when it is let in anew."""
        self._waiting[request.request_id] = request
        self._waiting.move_to_end(request.request_id, last=False)

    def prepend_requests(self, requests: Iterable[Any]) -> None:
        """One after another: the last one comes to stand first, as in vLLM's queue."""
        for request in requests:
            self.prepend_request(request)

    def peek_request(self) -> Any:
        """Who enters next."""
        return self._waiting[self._next()]

    def pop_request(self) -> Any:
        """Who enters next, out of the queue."""
        name = self._next()
        if self._inside is not None:
            self._inside.popleft()
        return self._waiting.pop(name)

    def remove_request(self, request: Any) -> None:
        """Out of the queue, wherever it stands."""
        del self._waiting[request.request_id]
        if self._inside is not None and request.request_id in self._inside:
            self._inside.remove(request.request_id)

    def remove_requests(self, requests: Iterable[Any]) -> None:
        """The same for several; those that are not here are passed over."""
        for request in requests:
            if request.request_id in self._waiting:
                self.remove_request(request)

    def __contains__(self, request: Any) -> bool:
        return request.request_id in self._waiting

    def __bool__(self) -> bool:
        return bool(self._waiting if self._inside is None else self._inside)

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._waiting.values())

    def __reversed__(self) -> Iterator[Any]:
        return reversed(self._waiting.values())

    def _next(self) -> str:
        line = self._waiting if self._inside is None else self._inside
        if not line:
            raise IndexError("nobody may enter")
        return next(iter(line))
