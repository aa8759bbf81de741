"""Generation: answers to a pool's requests, each as long as the model makes it."""
