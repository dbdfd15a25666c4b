"""Runs of the C program as models of Hugging Face's transformers.

Importing this module registers ``model_type: resbm``, so that what ``resbm export --hf RUN OUT`` wrote loads as usual:

    import resbm.hf
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained("OUT")

Boundaries are where the run has them, their codec's rounding included: what is evaluated is what was trained.
"""

from transformers import AutoConfig, AutoModelForCausalLM

from .model import ResbmConfig, ResbmForCausalLM

__all__ = ["ResbmConfig", "ResbmForCausalLM"]

AutoConfig.register("resbm", ResbmConfig, exist_ok=True)
AutoModelForCausalLM.register(ResbmConfig, ResbmForCausalLM, exist_ok=True)
