"""Specs that the reference runs. Anything else is refused by name: a field passed over proves nothing."""

from __future__ import annotations

from collections.abc import Iterator

from txcalc.spec import autoencoder, compression, inputs, layers, model, projections, rnn, tables
from txcalc.spec.base import Spec
from txcalc.spec.facts import STORAGE
from txcalc.spec.quantization import Mixed, Quantization, StoredTensors

_SUBLAYERS = {"shared_block", "attention", "recurrent", "cross_attention", "feed_forward", "adapter",
              "convolution", "bottleneck", "tanh_gates", "norm", "residual"}
_STACK = _SUBLAYERS | {
    "layers", "input", "position", "embedding_norm", "embedding_norm_scale", "layer_scale", "residual_scale", "streams",
    "sinkhorn", "mix_rank",
    "final_norm", "causal_mask", "share_layers", "groups",
}
_CELL = {"kind", "hidden", "bias", "bidirectional", "attends", "initial"}
_NORM = {"kind", "scale", "bias", "eps"}

UNDERSTOOD: dict[type[Spec], set[str]] = {
    model.Model: _STACK | {
        "name", "family", "modeling", "gelu", "aliases", "summary", "sources", "published", "architecture", "vocab",
        "d_model", "context", "extra_tokens", "token_types", "task_types", "token_tables", "embedding_dim",
        "embedding_projection", "embedding_projection_bias", "embedding_span", "embedding_scale",
        "per_layer_embedding", "altup", "encoder", "source_vocab", "unread_memory", "unused_table", "tower", "pooler",
        "autoencoder", "entities", "idle", "contact_head", "head",
        *STORAGE,
    },
    model.Stack: _STACK,
    model.Encoder: _STACK | {"d_model", "pooler", "projection"},
    model.SideTower: _STACK | {"d_model", "pooler", "projector"},
    model.Tower: _STACK | {"d_model", "pooler", "projector", "deepstack", "second", "resampler", "unused"},
    model.Resampler: _STACK | {"d_model"},
    model.Group: {"repeat", "blocks", "shared"},
    model.Block: _SUBLAYERS | {"repeat"},
    model.SharedBlock: {"attention", "feed_forward", "index", "rank", "attention_adapters"},
    model.Published: set(model.Published.names()),
    Mixed: set(Mixed.names()),
    Quantization: set(Quantization.names()),  # how a checkpoint packs the weights: nothing of it runs
    StoredTensors: set(StoredTensors.names()),  # likewise
    layers.Norm: _NORM,
    layers.BlockNorm: _NORM | {"placement", "shared", "on_attention", "gate_rank", "gate_on"},
    layers.HeadNorm: _NORM | {"over"},
    layers.AttentionBias: {"q", "k", "v", "o"},
    layers.Attention: {
        "kind", "heads", "kv_heads", "head_dim", "bias", "window", "cached", "qk_norm", "scale", "rope", "chunk",
        "softcap", "sinks", "output_gate", "inner_norm", "gate_over", "gate_activation", "gate_bias", "value_dim",
        "image_window", "window_border", "image_reduction", "image_convolution", "value_norm", "value_from",
        "kv_shared", "joined",
        "memory_norm", "twice", "column_groups", "value_convolution", "unused", "query_experts", "similarity", "blocks",
        "span_convolution", "differential", "kept_keys", "indexer", "ahead",
    },
    projections.UnusedProjections: {"q", "k", "v"},
    projections.AttentionGroups: {"q", "k", "v", "o"},
    projections.DenseGroups: {"up", "down"},
    projections.LanguageAdapter: {"width", "languages", "activation", "norm", "normed_residual"},
    autoencoder.Autoencoder: set(autoencoder.Autoencoder.names()),
    autoencoder.Generation: set(autoencoder.Generation.names()),
    tables.Entities: {"rows", "width", "tied"},
    tables.IdleWeight: {"name", "shape", "times", "kind"},
    layers.MLA: {
        "kind", "heads", "q_rank", "kv_rank", "nope_dim", "rope_dim", "value_dim", "bias", "scale", "index_topk",
        "indexer", "interleaved", "window", "sinks", "output_gate", "gate_over", "rope_norm", "joint",
    },
    compression.BlockIndexer: {"heads", "head_dim", "block", "blocks", "averaged"},
    compression.Indexer: {"heads", "head_dim"},
    compression.Compression: {"rate", "overlaps", "index_topk", "indexer"},
    compression.Compressed: {"kind", "heads", "head_dim", "q_rank", "o_groups", "o_rank", "window", "compression"},
    layers.Mamba2: {"kind", "heads", "head_dim", "state", "groups", "conv", "conv_bias", "bias", "norm"},
    rnn.Mamba: {"kind", "inner", "state", "rank", "conv", "conv_bias", "bias", "norms", "norm_scale",
                   "heads"},
    layers.LightningAttention: {"kind", "heads", "head_dim"},
    layers.KimiDelta: {"kind", "heads", "head_dim", "conv", "bottleneck"},
    layers.ShortConvolution: {"kind", "conv", "bias", "image"},
    rnn.FourierMixing: {"kind"},
    rnn.PatchMerging: {"kind", "merge", "width", "norm", "d_ff", "activation", "bias", "mean", "heads", "skipped"},
    rnn.GlobalAttention: {"kind", "separable"},
    rnn.ImageConvolutions: {"kind", "norm", "activation", "layers", "positions", "class_tokens"},
    rnn.ImageConvolution: {"channels", "kernel", "stride", "groups", "bias", "norm", "activation"},
    rnn.RGLRU: {"kind", "inner", "heads", "conv", "activation"},
    rnn.WKV: {"kind", "inner"},
    rnn.MLSTM: {"kind", "heads", "key_dim", "value_dim", "bias"},
    rnn.CellBias: {"input", "hidden"},
    rnn.AdditiveAttention: {"kind", "width", "bias", "readout"},
    rnn.InitialState: {"of", "bias"},
    rnn.RNN: _CELL,
    rnn.LSTM: _CELL,
    rnn.GRU: _CELL | {"reset"},
    rnn.Convolution1D: {"kind", "width", "channels", "bias", "gated", "activation"},
    layers.GatedDelta: {"kind", "key_heads", "value_heads", "key_dim", "value_dim", "conv"},
    projections.AltUp: {"streams", "laurel_rank"},
    projections.Bottleneck: {"width", "shared", "feed_forwards"},
    projections.Ahead: {"streams", "buckets"},
    projections.Blocks: {"length", "reach", "summaries", "global_tokens", "staggered"},
    projections.Convolution: {"kernel", "activation"},
    layers.DenseBias: {"up", "gate", "down"},
    layers.Dense: {"kind", "d_ff", "activation", "gated", "bias", "inner_norm", "column_groups", "channel_mix"},
    layers.MoE: {
        "kind", "experts", "active_experts", "d_ff", "activation", "gated", "bias", "router_bias", "routing",
        "normalize", "shared_experts", "shared_d_ff", "shared_gate", "separate_norms", "latent", "output_norm",
        "output_bias",
        "expert_groups", "active_groups",  # they say which experts are chosen, not how many
    },
    inputs.TokenInput: {"kind", "mask_token"},
    inputs.PatchInput: {"kind", "image", "patch", "channels", "bias", "normed", "class_tokens", "registers",
                        "mask_token", "kernel"},
    inputs.FrameInput: {"kind", "bins", "length", "grid"},
    inputs.Grid: {"channels", "frames"},
    inputs.QueryInput: {"kind", "length", "instruction"},
    inputs.Instruction: {"rows", "positions"},
    tables.TokenTable: {"rows", "width", "lookups"},
    tables.PerLayerEmbedding: {"rows", "width", "activation"},
    inputs.NoPosition: {"kind"},
    inputs.LearnedPosition: {"kind", "size", "both_ways"},
    inputs.SinusoidalPosition: {"kind", "stored", "size"},
    inputs.RotaryPosition: {"kind", "theta", "window_theta", "dim", "size"},
    inputs.AlibiPosition: {"kind"},
    inputs.RelativePosition: {"kind", "buckets", "max_distance", "per_layer", "absolute"},
    inputs.ContinuousPosition: {"kind", "hidden", "absolute"},
    inputs.DecomposedPosition: {"kind", "absolute"},
    inputs.DisentangledPosition: {
        "kind", "buckets", "scores", "shared_projections", "key_bias", "clipped", "norm", "absolute",
    },
    inputs.TransformerXLPosition: {"kind", "per_layer", "cached", "of_sequences", "segments"},
    inputs.HeadTransform: {"activation", "bias", "norm", "width", "hidden"},
    inputs.Maxout: {"width", "pieces", "bias"},
    inputs.LMHead: {"kind", "tied", "bias", "unused_bias", "softcap", "transform", "maxout", "pair_labels", "copies",
                    "widened"},
    inputs.ClassifierHead: {"kind", "labels", "bias", "of", "transform", "copies", "padded", "undropped"},
    inputs.ContrastiveHead: {"kind", "width", "loss"},
    inputs.ProjectionHead: {"kind", "width", "of", "hidden"},
    inputs.NoHead: {"kind"},
    inputs.DensePooler: {"kind", "of", "activation", "width"},
    inputs.NormPooler: {"kind", "of"},
    inputs.AttentionPooler: {"kind", "attention", "feed_forward"},
    inputs.ProjectorLayer: {"width", "norm", "activation", "gated", "bias", "softmax", "padding"},
    inputs.Projector: {"merge", "average", "tokens", "norm", "norm_first", "hidden", "bias", "unused_layers",
                       "feature_layers", "separators", "final_norm", "unpatched", "dense", "patchwise", "newlines",
                       "behind"},
}


def not_understood(spec: Spec, path: str = "") -> Iterator[str]:
    """The fields of ``spec`` that the reference does not run, unless they stand at their default."""
    fields = UNDERSTOOD.get(type(spec))
    if fields is None:
        yield f"{path or 'model'} of kind {type(spec).__name__}"
        return
    for name, value in vars(spec).items():
        inner = f"{path}.{name}" if path else name
        if name not in fields:
            if value != spec.default(name):
                yield inner
            continue
        values = value if isinstance(value, tuple) else (value,)
        for item in values:
            if isinstance(item, Spec):
                yield from not_understood(item, inner)


def refuse_unknown(spec: Spec) -> None:
    """Raises NotImplementedError that names every field the reference would have passed over."""
    if missing := list(not_understood(spec)):
        raise NotImplementedError(f"the reference does not run: {', '.join(missing)}")
