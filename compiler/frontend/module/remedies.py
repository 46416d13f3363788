"""What users can do instead of code that has no lowering, by the operation or the module that the code uses."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

NEURONS = "between layers only spiking neurons may be nonlinear: put an IFNode, LIFNode or ParametricLIFNode there"
STATISTICS = "it normalises by what each sample holds; use a batch normalisation, whose statistics are constants"
RANDOM = "leave random numbers out of what eval mode runs"
RECURRENT = "use spiking neurons, or a LinearRecurrentContainer with neurons in it"
HAND_WRITTEN = (
    "neurons that the code writes out are recognised step by step alone, as mem = mem * decay * (1 - spike) + x[t] or "
    "mem = (mem - threshold * spike) * decay + x[t], with spike = mem > threshold or mem >= threshold: write them so, "
    "or let an IFNode, LIFNode or ParametricLIFNode of SpikingJelly compare potentials with thresholds"
)
CHOOSES = "what is chosen depends on values; take fixed channels or pixels, as slices"
REORDERS = "take runs of channels or pixels in their order, as slices"
RESIZES = "let convolutions and pools change the size of images"
ATTENTION = "write attention of spikes without softmax, (q @ k^T) @ v, its projections being layers with neurons behind"
WHOLE = "it mixes samples and steps; reduce the axes of pixels, or of time behind all neurons"

OPERATIONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("relu", "relu_", "gelu", "silu", "silu_", "sigmoid", "tanh", "elu", "leaky_relu"), NEURONS),
        **dict.fromkeys(
            ("hardtanh", "hardswish", "hardsigmoid", "softplus", "mish", "prelu", "rrelu", "selu"), NEURONS
        ),
        **dict.fromkeys(("relu6", "celu", "threshold", "exp", "log", "sqrt", "rsqrt", "pow", "abs", "erf"), NEURONS),
        **dict.fromkeys(("softmax", "log_softmax", "scaled_dot_product_attention"), ATTENTION),
        **dict.fromkeys(("layer_norm", "native_layer_norm", "group_norm", "instance_norm", "rms_norm"), STATISTICS),
        **dict.fromkeys(("linalg_vector_norm", "norm", "std", "var", "local_response_norm"), STATISTICS),
        **dict.fromkeys(("rand", "randn", "rand_like", "randn_like", "bernoulli", "bernoulli_", "randint"), RANDOM),
        **dict.fromkeys(("normal_", "uniform_", "multinomial", "randperm", "feature_dropout"), RANDOM),
        **dict.fromkeys(("lstm", "gru", "rnn_tanh", "rnn_relu", "lstm_cell", "gru_cell", "rnn_tanh_cell"), RECURRENT),
        **dict.fromkeys(
            ("gt", "ge", "lt", "le", "sign", "heaviside", "where", "round", "floor", "masked_fill"), HAND_WRITTEN
        ),
        **dict.fromkeys(("gather", "topk", "sort", "argmax", "argsort", "nonzero", "masked_select"), CHOOSES),
        **dict.fromkeys(("scatter", "embedding", "one_hot", "unique"), CHOOSES),
        **dict.fromkeys(("index", "index_select", "roll", "flip", "cumsum"), REORDERS),
        **dict.fromkeys(("upsample_nearest2d", "upsample_bilinear2d", "conv_transpose2d", "pixel_shuffle"), RESIZES),
        **dict.fromkeys(
            ("conv3d", "conv_transpose1d", "im2col", "col2im", "grid_sampler", "adaptive_max_pool2d"), RESIZES
        ),
        "adaptive_max_pool3d": "pool the pixels of (T, N, C, H, W) alone, by windows (1, h, w)",
        "mean": WHOLE,
        "sum": WHOLE,
        "max": WHOLE,
        "min": WHOLE,
    }
)
"""What to do instead of each operation of PyTorch, by the operation's name."""

MODULES: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell"), RECURRENT),
        **dict.fromkeys(("SpikingLSTM", "SpikingGRU", "SpikingVanillaRNN"), RECURRENT),
        **dict.fromkeys(("SpikingLSTMCell", "SpikingGRUCell", "SpikingVanillaRNNCell"), RECURRENT),
        **dict.fromkeys(("MultiheadAttention", "TransformerEncoderLayer", "TransformerDecoderLayer"), ATTENTION),
    }
)
"""What to do instead of each class of PyTorch or SpikingJelly whose code is not traced into, by the class's name."""
