"""The policy: the file as people write it (`model`), its laws (`lint`), and the closures it becomes (`compile`)."""
