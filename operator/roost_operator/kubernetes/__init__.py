"""The operator on Kubernetes: gathers what is there, asks `roost_operator.plan` what to do, and does it."""
