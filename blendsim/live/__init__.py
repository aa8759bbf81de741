"""Plans that run for real: one replayed and timed, or a batch planned and answered, on our runtime
or in vLLM. torch and what stands on it are loaded here, once something is to run.
"""
