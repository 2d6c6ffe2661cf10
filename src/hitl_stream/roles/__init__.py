"""The roles that `hitl run` starts: each joins the lane (or Faust) to the core."""
