"""Describes a ComfyUI workflow once, and writes it in both of ComfyUI's formats. Standard library only.

*UI format* (version 0.4) is what people drop into the window: nodes with positions, links as
``[id, from node, output, to node, input, type]``, widget values by position. *API format* is what a server runs: inputs
by name, links as ``[node, output]``. The node types are those of ComfyUI's own Z-Image templates.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Kind:
    """A node type: (name, type) of its inputs and outputs, its widgets in order, its size on the canvas."""

    inputs: tuple[tuple[str, str], ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    widgets: tuple[str, ...] = ()
    size: tuple[int, int] = (300, 110)


KINDS = {
    "UNETLoader": Kind((), (("MODEL", "MODEL"),), ("unet_name", "weight_dtype")),
    "CLIPLoader": Kind((), (("CLIP", "CLIP"),), ("clip_name", "type", "device"), (300, 140)),
    "VAELoader": Kind((), (("VAE", "VAE"),), ("vae_name",), (300, 80)),
    "LoraLoaderModelOnly": Kind((("model", "MODEL"),), (("MODEL", "MODEL"),), ("lora_name", "strength_model")),
    "ModelSamplingAuraFlow": Kind((("model", "MODEL"),), (("MODEL", "MODEL"),), ("shift",), (300, 80)),
    "CLIPTextEncode": Kind((("clip", "CLIP"),), (("CONDITIONING", "CONDITIONING"),), ("text",), (420, 240)),
    "ConditioningZeroOut": Kind(
        (("conditioning", "CONDITIONING"),), (("CONDITIONING", "CONDITIONING"),), (), (300, 60)
    ),
    "EmptySD3LatentImage": Kind((), (("LATENT", "LATENT"),), ("width", "height", "batch_size"), (300, 140)),
    "KSampler": Kind(
        (("model", "MODEL"), ("positive", "CONDITIONING"), ("negative", "CONDITIONING"), ("latent_image", "LATENT")),
        (("LATENT", "LATENT"),),
        ("seed", "control_after_generate", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
        (320, 270),
    ),
    "VAEDecode": Kind((("samples", "LATENT"), ("vae", "VAE")), (("IMAGE", "IMAGE"),), (), (220, 80)),
    "SaveImage": Kind((("images", "IMAGE"),), (), ("filename_prefix",), (520, 560)),
    "MarkdownNote": Kind((), (), ("text",), (420, 320)),
}
WINDOW_ONLY = ("control_after_generate",)
"""Widgets that exist only in the window, not on the server."""


@dataclass
class Node:
    """A node: widgets by name, links by input as (node number, output), and its position (column, y)."""

    number: int
    kind: str
    title: str
    widgets: dict[str, Any]
    links: dict[str, tuple[int, int]]
    place: tuple[int, int]
    models: list[dict[str, str]] = field(default_factory=list)


class Graph:
    """Nodes in the order in which they run; notes are only in the UI format."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: list[Node] = []

    def add(
        self, kind: str, title: str, place: tuple[int, int], widgets: Mapping[str, Any] | None = None, **links: Node
    ) -> Node:
        """Append a node; each link names an input, and the node whose first output goes into it."""
        known = KINDS[kind]
        widgets = dict(widgets or {})
        if set(widgets) != set(known.widgets) or set(links) != {name for name, _ in known.inputs}:
            raise ValueError(f"{kind} needs the inputs {known.inputs} and the widgets {known.widgets}")
        made = {name: (node.number, 0) for name, node in links.items()}
        self.nodes.append(Node(len(self.nodes) + 1, kind, title, widgets, made, place))
        return self.nodes[-1]

    def as_api(self) -> dict[str, Any]:
        """The graph in API format."""
        out = {}
        for node in self.nodes:
            if not (KINDS[node.kind].inputs or KINDS[node.kind].outputs):
                continue
            inputs: dict[str, Any] = {name: node.widgets[name] for name in KINDS[node.kind].widgets
                                      if name not in WINDOW_ONLY}  # fmt: skip
            inputs |= {name: [str(number), slot] for name, (number, slot) in node.links.items()}
            out[str(node.number)] = {"class_type": node.kind, "inputs": inputs, "_meta": {"title": node.title}}
        return out

    def as_ui(self) -> dict[str, Any]:
        """The graph in UI format; the same graph gives the same bytes."""
        links: list[list[Any]] = []
        for node in self.nodes:
            for slot, (name, type_) in enumerate(KINDS[node.kind].inputs):
                links.append([len(links) + 1, *node.links[name], node.number, slot, type_])
        nodes = [self._node(order, node, links) for order, node in enumerate(self.nodes)]
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, f"charloom/{self.name}")),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [],
            "config": {},
            "extra": {},
            "version": 0.4,
        }

    def _node(self, order: int, node: Node, links: list[list[Any]]) -> dict[str, Any]:
        kind = KINDS[node.kind]
        properties: dict[str, Any] = {} if node.kind == "MarkdownNote" else {"Node name for S&R": node.kind}
        if node.models:
            properties["models"] = node.models
        into = {link[4]: link[0] for link in links if link[3] == node.number}
        out = [[link[0] for link in links if link[1] == node.number and link[2] == i] for i in range(len(kind.outputs))]
        return {
            "id": node.number,
            "type": node.kind,
            "title": node.title,
            "pos": [node.place[0] * 460, node.place[1]],
            "size": list(kind.size),
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": [{"name": n, "type": t, "link": into[i]} for i, (n, t) in enumerate(kind.inputs)],
            "outputs": [{"name": n, "type": t, "links": out[i]} for i, (n, t) in enumerate(kind.outputs)],
            "properties": properties,
            "widgets_values": [node.widgets[name] for name in kind.widgets],
        }
