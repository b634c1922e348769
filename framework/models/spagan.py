"""SPAGAN: attention over shortest paths, and the network of two stages that finds the paths by its own attention.

Yang, Wang, Song, Yuan and Tao, "SPAGAN: Shortest Path Graph Attention Network", IJCAI 2019. A path's length is counted
in nodes, its centre included: a path of two is an edge. Where the paper and the code that its authors released differ,
the paper is the default and the code's way an option.
"""

import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from framework.errors import InputError
from framework.graph.block import Block, GraphBlock
from framework.graph.path_block import BlockPaths, PathBlock
from framework.kernels.path_pool import path_attention, path_attention_weights
from framework.kernels.paths import LONGEST
from framework.models.layers import GATConv, dropped_input
from framework.models.node_model import forward_layers
from framework.models.nodes import GAT
from framework.random import Key
from framework.registry import MODELS

Pooling = Literal["mean", "max"]
_GAIN = 1.414  # of the first weights


class PathAttention(nn.Module):
    """Attention of every centre over its paths of each length, then over the lengths.

    With z = W x + b and phi(p) the mean (or maximum) of z over the nodes of path p without its centre i, each head has
    alpha_p = softmax over i's paths of one length c of leaky_relu(a_c . [phi(p), z_i]), l_c = sum of alpha_p phi(p),
    beta_c = softmax over lengths of leaky_relu(a . [l_c, z_i]), and gives sum of beta_c l_c (Yang et al., IJCAI 2019).
    No activation follows. Where the longest path is an edge it is graph attention (GAT) over these edges.
    """

    def __init__(
        self,
        columns: int,
        out: int,
        *,
        longest: int = 3,
        heads: int = 8,
        join: bool = True,
        slope: float = 0.2,
        attention_dropout: float = 0.0,
        pooling: Pooling = "mean",
    ) -> None:
        """`out` columns a head; lengths are 2 to `longest`, in nodes; `join`: heads side by side, else their mean."""
        super().__init__()
        if not 2 <= longest <= LONGEST:
            raise InputError(f"longest is {longest}; expected 2 to {LONGEST} nodes, the centre included.")
        if pooling not in ("mean", "max"):
            raise InputError(f"pooling is '{pooling}'; expected 'mean' or 'max'.")
        self.heads, self.out, self.join, self.slope = heads, out, join, slope
        self.attention_dropout, self.pooling = attention_dropout, pooling
        lengths = longest - 1
        self.linear = nn.Linear(columns, heads * out)
        self.path_attention = nn.Parameter(torch.empty(lengths, heads, out))
        self.centre_attention = nn.Parameter(torch.empty(lengths, heads, out))
        self.length_attention = nn.Parameter(torch.empty(2, heads, out)) if lengths > 1 else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New weights as the released code draws them: normal, by the widths of one head, biases too."""
        _draw_linear(self.linear, self.out)
        for vectors in (self.path_attention, self.centre_attention, self.length_attention):
            if vectors is not None:
                _draw_vectors(vectors)

    def forward(self, x: Tensor, paths: Sequence[BlockPaths], key: Key | None = None) -> Tensor:
        """[sources, columns] -> [centres, heads * out], or [centres, out] where heads are averaged.

        `paths`: a table for every length, from 2 nodes up; the centres are the first of the sources. `key`: what
        dropout of the attention is drawn by, in training; without one nothing is dropped. Raises InputError for tables
        of other lengths, or for rows of `x` that are not the sources'."""
        values, scores = self._projected(x, paths)
        dropout = self.attention_dropout if self.training else 0.0
        reached = [
            path_attention(
                table.offsets,
                table.nodes,
                values,
                *self._scores_of(number, scores, table),
                path_vector=self.path_attention[number] if self.pooling == "max" else None,
                negative_slope=self.slope,
                path_scale=table.dropped(key, self.heads, dropout, values),
                transposed=table.places if torch.is_grad_enabled() else None,
            )
            for number, table in enumerate(paths)
        ]
        out = self._joined(reached, scores)
        return out.flatten(1) if self.join else out.mean(1)

    def attention(self, x: Tensor, paths: Sequence[BlockPaths]) -> list[Tensor]:
        """The weights alpha of all paths, one [paths, heads] a length: they sum to one for each centre with paths.

        Without dropout or gradient."""
        with torch.no_grad():
            values, scores = self._projected(x, paths)
            return [
                path_attention_weights(
                    table.offsets,
                    table.nodes,
                    values,
                    *self._scores_of(number, scores, table),
                    path_vector=self.path_attention[number] if self.pooling == "max" else None,
                    negative_slope=self.slope,
                )
                for number, table in enumerate(paths)
            ]

    def _projected(self, x: Tensor, paths: Sequence[BlockPaths]) -> tuple[Tensor, Tensor]:
        """z of all sources [sources, heads, out], and its products with all vectors of attention, a number a head each.

        One product for all vectors, of centres too: a pass over z a vector costs more than what is not needed here.
        [vectors, sources, heads]: those of paths by length, those of centres by length, that of centres for lengths."""
        expected = list(range(1, len(self.path_attention) + 1))
        if [table.steps for table in paths] != expected:
            given = [table.steps + 1 for table in paths]
            raise InputError(f"paths are of {given} nodes; expected a table for each of {[n + 1 for n in expected]}.")
        if any(len(table.original) != len(x) for table in paths):
            raise InputError(f"x has {len(x)} rows; expected one for each of {len(paths[0].original)} sources.")
        values = self.linear(x).view(-1, self.heads, self.out)
        vectors: list[Tensor] = [self.path_attention, self.centre_attention]
        if self.length_attention is not None:
            vectors.append(self.length_attention[1:])
        return values, torch.einsum("shd,vhd->vsh", values, torch.cat(vectors))

    def _scores_of(self, number: int, scores: Tensor, table: BlockPaths) -> tuple[Tensor, Tensor]:
        """The part of a length's scores that sources have, and that of the centres."""
        return scores[number], scores[len(self.path_attention) + number, : table.num_centres]

    def _joined(self, reached: list[Tensor], scores: Tensor) -> Tensor:
        """What was reached by each length [centres, heads, out], weighed by attention over lengths."""
        if self.length_attention is None:
            return reached[0]
        own = scores[-1, : len(reached[0])]
        by_length = torch.stack([(rows * self.length_attention[0]).sum(2) + own for rows in reached])
        first, *others = nn.functional.leaky_relu(by_length, self.slope).softmax(0).unsqueeze(3)
        out: Tensor = first * reached[0]
        for weight, rows in zip(others, reached[1:], strict=True):
            out = torch.addcmul(out, weight, rows)
        return out


class SPAGANNetwork(nn.Module):
    """Two networks of two layers with weights of their own, of which `stage` says which one runs.

    Stage 1 is a GAT, whose first layer's attention makes the costs of edges. Stage 2 is path attention, and over it a
    layer of graph attention. What the other stage would use gets no gradient, so one optimiser lives on through both.
    """

    def __init__(self, columns: int, classes: int, settings: "SPAGAN") -> None:
        """As `settings` say, from `columns` features to `classes` scores; in stage 1."""
        super().__init__()
        self.settings, self.stage = settings, 1
        width = settings.hidden * settings.heads
        by_paths = PathAttention(
            columns,
            settings.hidden,
            longest=settings.longest,
            heads=settings.heads,
            slope=settings.slope,
            attention_dropout=settings.attention_dropout,
            pooling=settings.pooling,
        )
        first = _attention(columns, settings.hidden, settings.heads, settings, join=True)
        last, last_by_paths = (
            _attention(width, classes, settings.output_heads, settings, join=False) for _ in range(2)
        )
        self.edge_layers = nn.ModuleList([first, last])
        self.path_layers = nn.ModuleList([by_paths, last_by_paths])

    @property
    def longest(self) -> int:
        """Nodes of the longest paths."""
        return self.settings.longest

    def forward_layer(self, depth: int, block: GraphBlock | PathBlock, x: Tensor) -> Tensor:
        """Layer `depth` with its dropout and activation: [sources, in] -> [targets, out].

        In stage 2 the first layer takes a block of paths. Raises InputError for a block of the other kind."""
        wanted = PathBlock if self.stage == 2 and depth == 0 else GraphBlock
        if isinstance(block, PathBlock) != (wanted is PathBlock):
            raise InputError(
                f"layer {depth} was given a {type(block).__name__} in stage {self.stage}; expected a {wanted.__name__}."
            )
        layer = (self.path_layers if self.stage == 2 else self.edge_layers)[depth]
        x = dropped_input(self, block, x, self.settings.dropout)
        out: Tensor = layer(x, block.paths, block.key) if isinstance(block, PathBlock) else layer(block, x)
        return nn.functional.elu(out) if depth == 0 or self.settings.output_elu else out

    def forward(self, blocks: Sequence[GraphBlock | PathBlock], x: Tensor) -> Tensor:
        """Rows of the first block's sources -> class scores of the last block's targets."""
        return forward_layers(self, blocks, x)

    def edge_attention(self, block: Block, x: Tensor) -> Tensor:
        """Stage 1's attention in its first layer over the edges of `block.without_self_loops`, without dropout.

        `x` [sources, columns] features; returns [edges], the means over heads: what `edge_costs` makes costs of."""
        first, looped = self.edge_layers[0], block.with_self_loops
        assert isinstance(first, GATConv)
        weights = first.attention(block, x).mean(1)
        kept = torch.ones(len(weights), dtype=torch.bool, device=weights.device)
        kept[looped.indptr[1 : looped.num_owned + 1] - 1] = False  # the layer's own loops, last in their rows
        return weights[kept]

    def path_attention(self, block: PathBlock, x: Tensor) -> Tensor:
        """Stage 2's attention over the paths of two nodes, without dropout: [paths], the means over heads.

        What `refreshed_costs` makes costs of."""
        first = self.path_layers[0]
        assert isinstance(first, PathAttention)
        return first.attention(x, block.paths)[0].mean(1)


@MODELS.register("spagan")
@dataclasses.dataclass(frozen=True, kw_only=True)
class SPAGAN:
    """Shortest path graph attention (Yang et al., IJCAI 2019): a GAT, then attention over the paths that it finds."""

    hidden: int = 8
    """Width of a head of the first layer."""
    heads: int = 8
    """Heads of the first layer, side by side."""
    output_heads: int = 1
    """Heads of the last layer, averaged."""
    longest: int = 3
    """Nodes on the longest path, 2 to 5; 2: edges alone."""
    pooling: Pooling = "mean"
    """How a path's nodes become one row; the released code takes their `max`."""
    dropout: float = 0.6
    """Dropout of the rows that enter a layer."""
    attention_dropout: float = 0.6
    """Dropout of the attention weights of edges and paths; those of lengths have none."""
    slope: float = 0.2
    """Negative slope of the scores' leaky ReLU."""
    output_elu: bool = False
    """An ELU over the class scores, as in the released code."""

    def __post_init__(self) -> None:
        GAT(  # refuses what means nothing in a GAT
            hidden=self.hidden,
            heads=self.heads,
            output_heads=self.output_heads,
            dropout=self.dropout,
            attention_dropout=self.attention_dropout,
        )
        if not 2 <= self.longest <= LONGEST:
            raise InputError(f"--model.longest is {self.longest}; expected 2 to {LONGEST} nodes.")

    def build(self, columns: int, classes: int, depth: int) -> nn.Module:
        """Both stages' layers, in stage 1. Raises InputError unless there are two layers."""
        if depth != 2:
            raise InputError(
                f"spagan has 2 layers, and the sampler draws for {depth}; give it two fanouts, budgets or layers."
            )
        return SPAGANNetwork(columns, classes, self)


def _attention(columns: int, out: int, heads: int, settings: SPAGAN, *, join: bool) -> GATConv:
    """Graph attention as both stages have it, its weights drawn as the released code does."""
    layer = GATConv(
        columns,
        out,
        heads=heads,
        join=join,
        slope=settings.slope,
        attention_dropout=settings.attention_dropout,
        bias_of_values=True,
    )
    _draw_linear(layer.linear, out)
    _draw_vectors(layer.source_attention)
    _draw_vectors(layer.target_attention)
    return layer


def _draw_linear(linear: nn.Linear, out: int) -> None:
    """Glorot and Bengio's normal weights for each head of `out` columns; a bias counts as weights from one number."""
    nn.init.normal_(linear.weight, std=_GAIN * (2 / (linear.in_features + out)) ** 0.5)
    nn.init.normal_(linear.bias, std=_GAIN * (2 / (1 + out)) ** 0.5)


def _draw_vectors(vectors: Tensor) -> None:
    """Half an attention vector each, [..., out]: of weights from two rows of `out` columns to one number."""
    nn.init.normal_(vectors, std=_GAIN * (2 / (2 * vectors.shape[-1] + 1)) ** 0.5)
