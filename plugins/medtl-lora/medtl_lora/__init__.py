"""LoRA for medtl-monai: the policy ``lora``, and its layers in :mod:`medtl_lora.layers`."""
