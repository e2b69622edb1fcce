"""The base model, LoRA on it, and PEFT files."""
