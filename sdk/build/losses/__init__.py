"""What student and teacher say in, one number to lessen out; every loss a pure function with its formula and source.

Losses are sums in nats over the positions that count, never means: who splits a batch over several processes divides
once, by the tokens of all of them.
"""

from sdk.build.losses.attention import attention_kl, value_relations
from sdk.build.losses.divergence import cross_entropy, forward_kl, jensen_shannon, reverse_kl, tempered
from sdk.build.losses.features import LayerPair, feature_mse, layer_pairs
from sdk.build.losses.head import HeadLoss, LossWeights, head_loss, self_distillation
from sdk.build.losses.outcomes import Dense, TopK, coarse_student, coarse_teacher

__all__ = [
    "LossWeights",
    "head_loss",
    "HeadLoss",
    "self_distillation",
    "TopK",
    "Dense",
    "coarse_student",
    "coarse_teacher",
    "cross_entropy",
    "forward_kl",
    "reverse_kl",
    "jensen_shannon",
    "tempered",
    "feature_mse",
    "layer_pairs",
    "LayerPair",
    "attention_kl",
    "value_relations",
]
