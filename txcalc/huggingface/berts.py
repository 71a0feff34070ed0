"""Encoders of text that are BERT or RoBERTa with one or two things changed.

Read off the forward pass of the transformers class of the same name.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from txcalc.huggingface.build import ACTIVATIONS, Data, labels, rope
from txcalc.huggingface.config import Config
from txcalc.huggingface.decoder import CONTEXT
from txcalc.huggingface.encoder import (
    _OF_POOLERS,
    ACT,
    BARE,
    BERT,
    CROSSLESS,
    HEADS,
    NONE,
    NORMS_BEFORE,
    ROBERTA,
    SEES_ALL,
    TABLE,
    TYPES,
    Heads,
    bert,
    classifier,
    decoding,
    dense,
    encoder,
    encoder_classes,
    lm,
    masked_lm,
    past_padding,
    roberta,
    split_width,
    windows_in_blocks,
)
from txcalc.huggingface.rows import (
    LAYERNORM,
    LEARNED,
    Part,
    Reader,
    Rows,
    Value,
    activation,
    choice,
    derived,
    flag,
    passed_over,
    plain,
    read,
    size,
    some,
)
from txcalc.spec.errors import shown


def _behind_dense(act: Value) -> Heads:
    return BARE | {"sequence": {"head": classifier(transform=dense(act))},
                   "choice": {"head": classifier(1, transform=dense(act))}}


def _shared_layers(c: Config) -> list[Data] | None:
    """ALBERT's sets of ``inner_group_num`` layers, each of which runs as often as its share of the depth."""
    layers, groups, inner = c.size("num_hidden_layers"), c.size("num_hidden_groups"), c.size("inner_group_num")
    turns = [0] * groups
    for i in range(layers):
        turns[int(i / (layers / groups))] += 1
    if 0 in turns:
        raise c.error("num_hidden_groups", f"{layers} layers leave a group unused")
    runs = [{"repeat": times, "shared": True, "blocks": [{"repeat": inner}]} for times in turns]
    return None if groups == inner == 1 else runs


def _albert_layers(c: Config) -> int:
    return c.size("num_hidden_layers") * (1 if _shared_layers(c) is None else c.size("inner_group_num"))


def _summary(place: str, act: str | None, classes: Value = 1, *, projects: bool = True) -> Reader:
    """A linear layer on one position, and a dense one before it where the file asks for that."""
    def head(c: Config) -> Part:
        passed_over(c, "", {"summary_type": place})
        own = c.choice("summary_activation", ACTIVATIONS | {None: None}, default=act)
        return classifier(classes, transform=dense(own) if c.flag("summary_use_proj", default=projects) else None)
    return head


def _narrow(c: Config) -> int | None:
    width = c.size_or(c.size("hidden_size"), "embedding_size")
    return None if width == c.size("hidden_size") else width


def _spans(c: Config) -> Data:
    """ConvBERT's heads: so many times fewer, which share the columns with as many of convolutions."""
    heads, width = max(c.size("num_attention_heads") // c.size("head_ratio"), 1), c.size("hidden_size")
    if width % (2 * heads):
        raise c.error("hidden_size", f"must be twice the columns of {heads} heads, got {width}")
    return {"heads": heads, "head_dim": width // heads // 2, "bias": True,
            "span_convolution": c.size("conv_kernel_size")}


def _esm_place(c: Config) -> tuple[int, Data]:
    """Positions, and what says them."""
    rows = c.size("max_position_embeddings")
    if c.choice("position_embedding_type", {"absolute": False, "rotary": True}):
        return rows, rope(c, split_width(c))
    c.take("pad_token_id")
    return past_padding(c), {"kind": "learned", "size": rows}


def _mpnet_context(c: Config) -> int:
    rows = c.size("max_position_embeddings")
    if rows < 3:
        raise c.error("max_position_embeddings", f"must be above 2, the rows that no position uses, got {rows}")
    return rows - 2


def _xlm_sequence(c: Config) -> Part:
    passed_over(c, "", {"summary_type": "first", "summary_use_proj": True, "summary_proj_to_labels": True,
                        "summary_activation": None})
    return classifier()


def _sizes(c: Config, name: str) -> list[int]:
    sizes = c.take(name)
    if not isinstance(sizes, list | tuple) or not all(type(rows) is int and rows > 0 for rows in sizes):
        raise c.error(name, f"must be a list of whole numbers of at least 1, got {shown(sizes)}")
    return list(sizes)


def _looks_and_sounds(c: Config) -> list[Data]:
    """Two tables, which are there whether they are read or not."""
    for kind in ("shape", "pronunciation"):
        c.only(f"enable_{kind}", True)
    return [{"rows": c.size(f"{kind}_vocab_size"), "width": c.size(f"{kind}_embed_dim")}
            for kind in ("shape", "pronunciation")]


_OF_CELLS: Final = (
    "positive_label_weight num_aggregation_labels aggregation_loss_weight use_answer_as_supervision max_num_columns "
    "disable_per_token_loss answer_loss_importance use_normalized_answer_loss huber_loss_delta aggregation_temperature "
    "use_gumbel_for_cells use_gumbel_for_aggregation average_approximation_function cell_selection_preference "
    "answer_loss_cutoff max_num_rows average_logits_per_cell select_one_column allow_empty_column_selection "
    "aggregation_labels init_cell_selection_weights_to_zero reset_position_index_per_cell no_aggregation_label_index")
"""Fields of TAPAS's training and of its answers."""


def _always_pooled(heads: Heads) -> Heads:
    """The same of models whose pooler is there, and runs, whether its vector is read or not."""
    return {kind: {"pooler": True, **part} for kind, part in heads.items() if kind != "pretraining"}


def _of_trigrams(heads: Heads) -> Heads:
    """The same, where an output reads more columns than the token table has."""
    output = lm(two_biases=True, widened=True, transform=dense(ACT, norm=LAYERNORM))
    return heads | {"mlm": {"head": output}, "pretraining": {
        "pooler": True, "head": lambda c: {**read(c, output), "pair_labels": 2}}}


def _narrow_heads(c: Config) -> int:
    width, heads = c.size("intra_bottleneck_size"), c.size("num_attention_heads")
    if width % heads:
        raise c.error("intra_bottleneck_size", f"must be the columns of {heads} heads together, got {width}")
    return width // heads


def _languages_apart(c: Config) -> Data:
    """X-MOD's adapters, as wide as a share of the model; norms before them may be the layer's own once more."""
    names, factor = c.take("languages"), c.number("adapter_reduction_factor")
    if not isinstance(names, list | tuple) or not names:
        raise c.error("languages", f"must be a list of at least one language, got {shown(names)}")
    if not factor or factor < 0 or c.size("hidden_size") // factor < 1:
        raise c.error("adapter_reduction_factor", f"must leave a width, got {shown(factor)}")
    own, again = c.flag("adapter_layer_norm"), c.flag("adapter_reuse_layer_norm")
    norm = "own" if own else "again" if again else "none"
    return {"width": int(c.size("hidden_size") // factor), "languages": len(names), "activation": ACT(c), "norm": norm,
            "normed_residual": c.flag("ln_before_adapter") and norm != "none"}


def _languages(c: Config) -> int:
    languages = c.size("n_langs")
    return languages if c.flag("use_lang_emb") and languages > 1 else 0


def _sines(name: str) -> Reader:
    """Frozen sines and cosines, or a table."""
    return lambda c: {"kind": "sinusoidal", "stored": True} if c.flag(name) else LEARNED


_TRAINING_OF_XLM: Final = (
    "amp bptt clip_grad_norm context_size fp16 group_by_size langs lg_sampling_factor lgs max_batch_size max_len "
    "mlm_steps sample_alpha tokens_per_batch word_blank word_dropout word_keep word_mask word_mask_keep_rand word_pred "
    "word_rand word_shuffle")
"""Fields of FlauBERT's training, which its files say as well."""

# XLM (arXiv 1901.07291) and FlauBERT (arXiv 1912.05372): a table of languages in place of token types. FlauBERT's
# larger models have their norms before each sublayer, and none at the end.
_xlm = partial(
    encoder, heads=BARE | {"mlm": {"head": lm()}, "sequence": {"head": _xlm_sequence}},
    ignore="start_n_top end_n_top lang_id unk_index mask_index bos_index eos_index pad_index embed_init_std lang2id "
    f"id2lang max_vocab min_count same_enc_dec {_TRAINING_OF_XLM}",
    only={"is_encoder": True, "encoder_only": True, "asm": False, "share_inout_emb": True},
    d_model=size("emb_dim"), layers=size("n_layers"), causal_mask=flag("causal"),
    position=_sines("sinusoidal_embeddings"), token_types=_languages,
    norm={**LAYERNORM, "placement": lambda c: "pre" if c.flag("pre_norm", default=False) else "post"},
    attention={"heads": size("n_heads"), "bias": True}, feed_forward={
        "d_ff": lambda c: 4 * c.size("emb_dim"), "bias": True,
        "activation": lambda c: "gelu" if c.flag("gelu_activation") else "relu"})


def _xlm_classes(prefix: str) -> dict[str, str]:
    """XLM's, less those with a beam search over spans or a summary of their own."""
    return encoder_classes(prefix, "mlm span choice", WithLMHeadModel="mlm", ForQuestionAnsweringSimple="span")


def _pretrained(prefix: str, causal: str = "ForCausalLM") -> dict[str, str]:
    """Those of BERT, which was trained to tell whether a text follows another."""
    return encoder_classes(prefix, ForPreTraining="pretraining", **{causal: "mlm"}, ForNextSentencePrediction="next")


ROWS: Final[Rows] = {
    # BERT, arXiv 1810.04805.
    "bert": bert(_pretrained("Bert", "LMHeadModel"), BERT, ignore=_OF_POOLERS),
    # BERT for generation, arXiv 1907.12461: no token types, no pooler, no dense layer before the output.
    "bert-generation": decoding({"BertGenerationEncoder": "none", "BertGenerationDecoder": "lm"},
                                 {"none": {"head": NONE}, "lm": {"head": lm(two_biases=True)}}),
    # RoBERTa, arXiv 1907.11692.
    "roberta": roberta(encoder_classes("Roberta", ForCausalLM="mlm")),
    "xlm-roberta": roberta(encoder_classes("XLMRoberta", ForCausalLM="mlm")),
    "camembert": roberta(encoder_classes("Camembert", ForCausalLM="mlm")),
    "data2vec-text": roberta(encoder_classes("Data2VecText", ForCausalLM="mlm")),
    # LayoutLM, arXiv 1912.13318: where a word's box begins and ends along both sides of its page, and how large it is.
    "layoutlm": bert(encoder_classes("LayoutLM", without="choice"), _always_pooled(BERT), token_tables=lambda c: [
        {"rows": c.size("max_2d_position_embeddings"), "lookups": lookups} for lookups in (2, 2, 1, 1)]),
    # TAPAS, arXiv 2004.02349: a table for each of what a cell of a table is known by.
    "tapas": encoder(
        {"TapasModel": "none", "TapasForMaskedLM": "mlm", "TapasForSequenceClassification": "sequence"}, BERT,
        ignore=_OF_CELLS, token_tables=lambda c: [{"rows": rows} for rows in _sizes(c, "type_vocab_sizes")]),
    # RoCBert, doi 10.18653/v1/2022.acl-long.65: how a character looks and sounds, beside what it is.
    "roc_bert": bert(encoder_classes("RoCBert", ForCausalLM="mlm", ForPreTraining="pretraining"), BERT | {
        "pretraining": {"pooler": True, **BERT["mlm"]}}, only={**CROSSLESS, "concat_input": True},
        token_tables=_looks_and_sounds),
    # RoFormer, arXiv 2104.09864: rotary positions, whose sines are a parameter.
    "roformer": bert(
        encoder_classes("RoFormer", without="choice", ForCausalLM="mlm"), BARE | {
            "mlm": BERT["mlm"], "sequence": {"head": classifier(transform=dense(ACT))},
            "span": {"head": classifier(2, "span")}}, only={**CROSSLESS, "rotary_value": False}, embedding_dim=_narrow,
        position=lambda c: {**rope(c, split_width(c)), "size": c.size("max_position_embeddings")}),
    # X-MOD, arXiv 2205.06266: RoBERTa with an adapter of every language in each layer.
    "xmod": roberta(
        encoder_classes("Xmod", ForCausalLM="mlm"), ignore="default_language",
        norm={**LAYERNORM, "placement": lambda c: "pre" if c.flag("pre_norm") else "post"}, final_norm=flag("pre_norm"),
        adapter=_languages_apart),
    # LUKE, arXiv 2010.01057, of a text without entities.
    "luke": encoder(
        encoder_classes("Luke"), BERT | {"mlm": {"pooler": True, "head": {
            "kind": "lm", "tied": False, "bias": True, "transform": dense("gelu", norm=LAYERNORM),
            "unused_bias": lambda c: not c.flag("tie_word_embeddings")}}}, only=SEES_ALL,
        token_types=TYPES, context=past_padding, position=TABLE, entities={
            "rows": size("entity_vocab_size"), "width": size("entity_emb_size"), "tied": flag("tie_word_embeddings")},
        attention={"heads": HEADS, "bias": True, "unused": {"q": lambda c: 3 * c.flag("use_entity_aware_attention")}}),
    # Longformer, arXiv 2004.05150: windows in chunks, projections of tokens that see everything, of which a text has
    # none; its other heads give some to their first ones.
    "longformer": encoder(
        encoder_classes("Longformer", "sequence span choice"), ROBERTA | {"none": {"pooler": True, "head": NONE}},
        only={}, ignore="onnx_export sep_token_id", token_types=TYPES, context=past_padding, position=TABLE,
        attention={"heads": HEADS, "bias": True, "unused": dict.fromkeys("qkv", 1)}, groups=windows_in_blocks),
    # ConvBERT, arXiv 2008.02496: half of an attention's columns come of convolutions whose kernels queries make.
    "convbert": encoder(
        encoder_classes("ConvBert"), _behind_dense(ACT) | {
            "mlm": {"head": masked_lm("gelu")}, "choice": {"head": _summary("last", None, projects=False)}},
        token_types=TYPES, embedding_dim=_narrow, ignore="head_ratio", attention=_spans, feed_forward={
            **plain(), "column_groups": {"up": size("num_groups"), "down": size("num_groups")}}),
    # MobileBERT, arXiv 2004.02984: a narrow layer within each, trigrams of tokens, norms that only scale and shift.
    "mobilebert": encoder(
        encoder_classes("MobileBert", ForPreTraining="pretraining", ForNextSentencePrediction="next"),
        _of_trigrams(BERT), token_types=TYPES,
        only={**SEES_ALL, "trigram_input": True, "use_bottleneck": True, "classifier_activation": True,
              "use_bottleneck_attention": lambda c: not c.flag("key_query_shared_bottleneck"),
              "true_hidden_size": (None, size("intra_bottleneck_size"))},
        embedding_dim=size("embedding_size"), embedding_projection="rows", embedding_span=3, norm={
            "kind": choice("normalization_type", {"no_norm": "affine", "layer_norm": "layernorm"}), "bias": True,
            "placement": "post"}, attention={"heads": HEADS, "head_dim": _narrow_heads, "bias": True}, bottleneck={
            "width": size("intra_bottleneck_size"), "shared": flag("key_query_shared_bottleneck"),
            "feed_forwards": size("num_feedforward_networks")}),
    # SqueezeBERT, arXiv 2006.11316: projections in groups of columns.
    "squeezebert": encoder(
        encoder_classes("SqueezeBert"), _always_pooled(BERT), token_types=TYPES,
        only={**SEES_ALL, "embedding_size": size("hidden_size")}, attention={
            "heads": HEADS, "bias": True, "column_groups": {
                **{name: size(f"{name}_groups") for name in "qkv"}, "o": size("post_attention_groups")}},
        feed_forward={**plain(), "column_groups": {"up": size("intermediate_groups"), "down": size("output_groups")}}),
    # Nyströmformer, arXiv 2102.03902, as released: as many landmarks as positions, which makes attention whole.
    "nystromformer": encoder(
        encoder_classes("Nystromformer"), _behind_dense("relu") | {
            "mlm": BERT["mlm"], "span": {"head": classifier(2, "span")},
            "sequence": {"head": classifier(transform=dense(ACT))}}, token_types=TYPES,
        only={**SEES_ALL, "num_landmarks": size("segment_means_seq_len"), "inv_coeff_init_option": False},
        ignore="segment_means_seq_len", position={"kind": "learned", "size": lambda c: CONTEXT(c) + 2},
        attention={"heads": HEADS, "bias": True, "value_convolution": size("conv_kernel_size")}),
    # YOSO, arXiv 2111.09714, as released: attention by what hashes would be on average; random ones are refused.
    "yoso": encoder(
        encoder_classes("Yoso"), _behind_dense("relu") | {
            "mlm": BERT["mlm"], "span": {"head": classifier(2, "span")},
            "sequence": {"head": classifier(transform=dense(ACT))}}, token_types=TYPES,
        only={**SEES_ALL, "use_expectation": True}, ignore="hash_code_len num_hash use_fast_hash lsh_backward",
        position={"kind": "learned", "size": lambda c: CONTEXT(c) + 2}, attention={
            "heads": HEADS, "bias": True, "similarity": "collisions", "value_convolution": some("conv_window")}),
    # FNet, arXiv 2105.03824: Fourier transforms in the place of attention.
    "fnet": encoder(
        encoder_classes("FNet", ForPreTraining="pretraining", ForNextSentencePrediction="next"),
        _always_pooled(BERT) | {"pretraining": BERT["pretraining"]},
        ignore="tpu_short_seq_length", only={"use_tpu_fourier_optimizations": False}, attention=None,
        recurrent={"kind": "fourier"}, token_types=TYPES, embedding_dim=size("hidden_size")),
    # I-BERT, arXiv 2101.01321, which quantises what RoBERTa has where it is told so.
    # XLNet (arXiv 1906.08237) without targets: every position sees all. Sequences have no longest one.
    "xlnet": encoder(
        {"XLNetModel": "none", "XLNetLMHeadModel": "lm", "XLNetForSequenceClassification": "sequence",
         "XLNetForTokenClassification": "token", "XLNetForMultipleChoice": "choice",
         "XLNetForQuestionAnsweringSimple": "token"},
        BARE | {"lm": {"head": lm()}, "sequence": {"head": _summary("last", "tanh", labels)},
                "choice": {"head": _summary("last", "tanh")}},
        ignore="mem_len reuse_len use_mems_eval use_mems_train clamp_len same_length start_n_top end_n_top",
        only={"attn_type": "bi", "bi_data": False},
        d_model=size("d_model"), layers=size("n_layer"), context=512, embedding_norm=False, input={
            "kind": "tokens", "mask_token": True}, attention={
                "heads": size("n_head"), "head_dim": derived("d_head", "d_model", "n_head")},
        position={"kind": "transformer-xl", "of_sequences": True, "segments": True},
        feed_forward=plain(d_ff=size("d_inner"), act="ff_activation")),
    "ibert": encoder(encoder_classes("IBert"), ROBERTA, token_types=TYPES, context=past_padding, position=TABLE,
                     only={"quant_mode": False, "hidden_act": "gelu"}, ignore="force_dequant"),
    # XLM-RoBERTa XL, arXiv 2105.00572.
    "xlm-roberta-xl": roberta(encoder_classes("XLMRobertaXL", ForCausalLM="mlm"), embedding_norm=False,
                               **NORMS_BEFORE),
    "roberta-prelayernorm": roberta(encoder_classes("RobertaPreLayerNorm", ForCausalLM="mlm"), **NORMS_BEFORE),
    # DistilBERT, arXiv 1910.01108.
    "distilbert": encoder(
        encoder_classes("DistilBert"),
        _behind_dense("relu") | {"mlm": {"head": masked_lm(activation("activation", "hidden_act"))}},
        ignore="qa_dropout seq_classif_dropout tie_weights_", only={}, d_model=size("dim", "hidden_size"),
        layers=size("n_layers", "num_hidden_layers"), position=_sines("sinusoidal_pos_embds"),
        attention={"heads": size("n_heads", "num_attention_heads"), "bias": True},
        feed_forward={"d_ff": size("hidden_dim", "intermediate_size"), "bias": True,
                      "activation": activation("activation", "hidden_act")}),
    # ALBERT, arXiv 1909.11942: a factorised embedding, and layers that share their weights.
    "albert": encoder(
        encoder_classes("Albert", ForPreTraining="pretraining"),
        BERT | {"pretraining": lambda c: {"pooler": True, "head": {
            **read(c, BERT["mlm"])["head"], "pair_labels": labels(c)}}},
        ignore="gap_size net_structure_type num_memory_blocks down_scale_factor layers_to_keep", token_types=TYPES,
        embedding_dim=size("embedding_size"), layers=_albert_layers, groups=_shared_layers,
        share_layers=lambda c: True if _shared_layers(c) is None else None),
    # ELECTRA, arXiv 2003.10555: a discriminator without pooler, or a generator with a narrow output.
    "electra": bert(
        encoder_classes("Electra", ForPreTraining="pretraining", ForCausalLM="mlm"), _behind_dense("gelu") | {
            "mlm": {"head": masked_lm("gelu")}, "choice": {"head": _summary("first", "gelu")},
            "pretraining": {"head": classifier(1, "all", transform=dense(ACT))}}, embedding_dim=_narrow),
    # Megatron-LM's BERT, arXiv 1909.08053.
    "megatron-bert": bert(_pretrained("MegatronBert"), BERT, embedding_norm=False,
                           ignore=f"tokenizer_type {_OF_POOLERS}", **NORMS_BEFORE),
    # ERNIE 1.0 to 3.0, arXiv 1907.12412: BERT, and from 2.0 on a table for the task that a text is of.
    "ernie": bert(_pretrained("Ernie"), BERT, only={**CROSSLESS, "pool_act": "tanh"},
                   ignore=f"task_id paddlenlp_version task_type_vocab_size {_OF_POOLERS}",
                   task_types=lambda c: c.size("task_type_vocab_size") if c.flag("use_task_id") else 0),
    # BigBird, arXiv 2007.14062, where it attends to everything; blocks of sparse attention are refused.
    "big_bird": bert(
        encoder_classes("BigBird", without="sequence span", ForPreTraining="pretraining", ForCausalLM="mlm"),
        _always_pooled(BERT) | {"pretraining": BERT["pretraining"]},
        ignore=f"block_size num_random_blocks {_OF_POOLERS}", only={**CROSSLESS, "attention_type": "original_full"},
        attention={"heads": HEADS, "bias": {**dict.fromkeys("qkv", flag("use_bias")), "o": True}},
        embedding_scale=flag("rescale_embeddings")),
    # MPNet, arXiv 2004.09297: RoBERTa with T5's bias by distance in one table for all layers, and no token types.
    "mpnet": encoder(
        encoder_classes("MPNet"), ROBERTA, context=_mpnet_context, position={
            "kind": "relative", "buckets": size("relative_attention_num_buckets"),
            "absolute": size("max_position_embeddings")}),
    # ESM-1b and ESM-2, doi 10.1126/science.ade2574: proteins. Every class keeps a regression from all attention maps
    # to contacts of residues, which has its own method to run.
    "esm": encoder(
        encoder_classes("Esm", without="span choice"), ROBERTA | {"mlm": {"head": masked_lm("gelu")}},
        only={"is_folding_model": (False, None), "is_decoder": False, "add_cross_attention": False,
              "hidden_act": "gelu"}, contact_head=True,
        ignore="token_dropout mask_token_id esmfold_config vocab_list", context=lambda c: _esm_place(c)[0],
        position=lambda c: _esm_place(c)[1],
        embedding_norm=lambda c: c.choice("emb_layer_norm_before", {True: True, False: False, None: False}),
        feed_forward={"d_ff": size("intermediate_size"), "activation": "gelu", "bias": True}, **NORMS_BEFORE),
    # RemBERT, arXiv 2010.12821: a narrow table for tokens, and an untied and wide one for the output.
    "rembert": bert(
        encoder_classes("RemBert", ForCausalLM="mlm"), BERT | {"mlm": {"head": {
            "kind": "lm", "tied": False, "bias": True,
            "transform": {**dense(ACT, norm=LAYERNORM), "width": size("output_embedding_size")}}}},
        only={**CROSSLESS, "tie_word_embeddings": False, "embedding_size": size("input_embedding_size")},
        ignore="embedding_dropout_prob output_embedding_size", embedding_dim=size("input_embedding_size")),
    "xlm": _xlm(_xlm_classes("XLM")),
    "flaubert": _xlm(_xlm_classes("Flaubert")),
}
