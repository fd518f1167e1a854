"""The merge engine against mergekit and the cost of copying."""
