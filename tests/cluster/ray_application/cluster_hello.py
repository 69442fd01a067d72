"""The smallest Serve application."""

from ray import serve


@serve.deployment(ray_actor_options={"num_cpus": 0.5})
class Hello:
    async def __call__(self, request: object) -> str:
        return "hello"


app = Hello.bind()
