"""Whether a chat template takes a message's content in parts, found as vLLM finds it
(`chat_template_content_format` "auto"): by a loop over the content of a message.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2.nodes import Node


def loops_over_content(template: "Node") -> bool:
    """Whether a template, parsed, has a loop over the content of what a loop over `messages`, or
    over what is made of them, goes through.
    """
    from jinja2 import nodes

    made = [
        (each.target.name, _root(each.node))
        for each in template.find_all(nodes.Assign)
        if isinstance(each.target, nodes.Name)
    ]
    loops = [
        (each.target.name, _root(each.iter))
        for each in template.find_all(nodes.For)
        if isinstance(each.target, nodes.Name)
    ]
    chats = {"messages"}
    while more := {name for name, of in made if _name(of) in chats} - chats:
        chats |= more
    messages = {name for name, of in loops if _name(of) in chats}
    return any(_owner(of) in messages for _, of in loops)


def _root(node: "Node") -> "Node":
    """What filters, tests and slices are of."""
    from jinja2 import nodes

    while isinstance(node, nodes.Filter | nodes.Test) or (
        isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Slice)
    ):
        if node.node is None:  # the filter of a block
            break
        node = node.node
    return node


def _name(node: "Node") -> str | None:
    from jinja2 import nodes

    return node.name if isinstance(node, nodes.Name) else None


def _owner(node: "Node") -> str | None:
    """The variable whose content this is."""
    from jinja2 import nodes

    if isinstance(node, nodes.Getattr):
        return _name(node.node) if node.attr == "content" else None
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        return _name(node.node) if node.arg.value == "content" else None
    return None
