"""The linear layers that each LoRA target set has in a text decoder, by their names in transformers."""

from medcap_core.config import LoraTargets

_JOINT = "c_attn|qkv_proj|query_key_value|in_proj_qkv"  # several in one matrix
_QUERY, _KEY, _VALUE = "q_proj|q|query|q_attn", "k_proj|k|key", "v_proj|v|value"
_OUTPUT = r"out_proj|o_proj|o|(cross)?attention\.output\.dense|(attn|crossattention)\.c_proj"
_MLP = (
    r"fc1|fc2|gate_proj|up_proj|down_proj|gate_up_proj|w1|w2|w3|wi|wi_0|wi_1|wo|c_fc|c_proj|intermediate\.dense|"
    r"output\.dense"
)


def build_lora_patterns(decoder: str) -> dict[LoraTargets, str]:
    """Build the pattern of each target set, which a module's name must match in full.

    `decoder` is the pattern of the text decoder's name.
    """
    attention = (_JOINT, _QUERY, _KEY, _VALUE, _OUTPUT)
    sets = {
        LoraTargets.QUERY_KEY: ("", (_JOINT, _QUERY, _KEY)),
        LoraTargets.SELF_QUERY_KEY: ("(?!.*(crossattention|EncDecAttention))", (_JOINT, _QUERY, _KEY)),
        LoraTargets.QUERY_VALUE: ("", (_JOINT, _QUERY, _VALUE)),
        LoraTargets.ATTENTION: ("", attention),
        LoraTargets.ATTENTION_MLP: ("", (*attention, _MLP)),
    }
    return {key: rf"{without}{decoder}\..*\.({'|'.join(names)})" for key, (without, names) in sets.items()}
