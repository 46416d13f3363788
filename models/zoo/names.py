"""The names of the zoo's families, in a module that imports none of the networks."""

from typing import Literal

FamilyName = Literal[
    "spikformer", "spikingformer", "qkformer", "sdt", "sew_resnet", "meta_spikeformer", "maxformer", "sdt_v3"
]
