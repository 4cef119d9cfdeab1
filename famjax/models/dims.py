"""The legend: one letter for each dimension, for the whole repository, and the array types built from it.

| letter | meaning                                                          |
|--------|------------------------------------------------------------------|
| B      | batch: examples                                                  |
| T      | tokens of a call                                                 |
| C      | block size: slots of a block                                     |
| N      | blocks of a sequence, ceil(T / C)                                |
| M      | memory segments: past blocks that stay as keys and values        |
| F      | FAM length: activations of feedback memory in a layer            |
| P      | pieces of a call: each lies in one block (famjax.models.layout)  |
| S      | slots of a piece, min(T, C)                                      |
| X      | keys that a query may look at                                    |
| L      | layers                                                           |
| D      | width of the residual stream                                     |
| H, K   | query heads, key and value heads                                 |
| h      | width of a head                                                  |
| G      | query heads that share a key head, H / K                         |
| V      | vocabulary                                                       |

In tensor-heavy code a name carries its shape as a suffix: `q_BxSxHxh`.
"""

from typing import Any

from jaxtyping import Array, Bool, Float, Int

Tokens = Int[Array, "B T"]
Lengths = Int[Array, " B"]
Flags = Bool[Array, " B"]
BlockLengths = Int[Array, "B N"]
BlockFlags = Bool[Array, "B N"]
Hidden = Float[Array, "B T D"]
Logits = Float[Array, "... V"]

PieceHidden = Float[Array, "B P S D"]
PieceQueries = Float[Array, "B P S H h"]
PieceKeys = Float[Array, "B P S K h"]
BlockKeys = Float[Array, "B P C K h"]
SegmentKeys = Float[Array, "B P MC K h"]
FamKeys = Float[Array, "B P F K h"]

Fam = Float[Array, "B F D"]
StackedFam = Float[Array, "L B F D"]
SavedFam = Float[Array, "L F D"]
FamPrompt = Float[Array, "F D"]

# A field of a struct: an array of the shape that the struct's docstring gives, or, in a tree of shapes, shardings or
# axis names, what stands for it there. (Run-time type checks would refuse such trees, so the shape is not in the type.)
Leaf = Any
