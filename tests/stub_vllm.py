"""A package in place of vllm that runs the model with transformers, one request at a time."""

VERSION = "0.33.0"
FILES = {
    f"vllm-{VERSION}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: vllm\nVersion: {VERSION}\n",
    "vllm/__init__.py": """
from types import SimpleNamespace
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
STARTED = []
class LLM:
    def __init__(self, model, dtype, max_model_len, **options):
        STARTED.append({"dtype": dtype, "max_model_len": max_model_len, **options})
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype))
        length = max_model_len or self.model.config.max_position_embeddings
        self.llm_engine = SimpleNamespace(model_config=SimpleNamespace(max_model_len=length))
    def generate(self, prompts, sampling_params, use_tqdm, lora_request):
        return [self._one(p["prompt_token_ids"], s) for p, s in zip(prompts, sampling_params)]
    @torch.inference_mode()
    def _one(self, ids, params):
        if getattr(params, "prompt_logprobs", None):
            logs = self.model(torch.tensor([ids])).logits[0, :-1].float().log_softmax(-1)
            best = logs.argmax(-1).tolist()
            pairs = zip(logs, best, ids[1:])
            each = [{t: float(log[t]) for t in (top, token)} for log, top, token in pairs]
            return SimpleNamespace(prompt_logprobs=[None, *each])
        out = self.model.generate(
            torch.tensor([ids]), max_new_tokens=params.max_tokens, do_sample=False, pad_token_id=0
        )
        text = self.tokenizer.decode(out[0, len(ids):], skip_special_tokens=True)
        return SimpleNamespace(outputs=[SimpleNamespace(text=text)])
class SamplingParams(SimpleNamespace):
    pass
def TokensPrompt(**entries):
    return entries
""",
    "vllm/lora/__init__.py": "",
    "vllm/lora/request.py": "class LoRARequest:\n    pass\n",
    "vllm/renderers/__init__.py": "",
    "vllm/renderers/hf.py": "def resolve_chat_template(**_):\n    return None\n",
    "vllm/tokenizers.py": """
from transformers import AutoTokenizer
def get_tokenizer(name, tokenizer_mode, trust_remote_code, revision):
    return AutoTokenizer.from_pretrained(name)
""",
}


def write_stub(folder):
    """Write the package and its metadata into a folder to be imported from."""
    for name, text in FILES.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder
