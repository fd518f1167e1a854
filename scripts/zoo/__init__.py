"""The embedded benchmark: small trained models, their texts and their lm-eval tasks."""
