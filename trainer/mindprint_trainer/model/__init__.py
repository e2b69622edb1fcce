"""The base model, LoRA layers over it, and adapters in PEFT's file format."""
