"""What a checkpoint is a model of: its architecture, sizes and canonical parts."""
