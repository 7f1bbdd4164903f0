"""Dense float64 matrices of a case that use none of our products."""

import torch
from torch.func import functional_call, grad, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel


class Oracle:
    """A case's objective as a plain function of the flat parameters, in eval mode."""

    def __init__(self, case):
        self.case = case
        self.model, _, self.inputs, self.targets = case.make()
        self.model.eval()
        named = dict(self.model.named_parameters())
        self.names = list(named)
        self.shapes = [p.shape for p in named.values()]
        self.theta = torch.cat([p.detach().reshape(-1) for p in named.values()])

    def outputs(self, theta, inputs):
        pieces = theta.split([s.numel() for s in self.shapes])
        state = {
            n: p.view(s)
            for n, p, s in zip(self.names, pieces, self.shapes, strict=True)
        }
        with sdpa_kernel(SDPBackend.MATH):
            return functional_call(self.model, state, (inputs.clone(),))

    def objective(self, theta):
        return self.case.oracle_loss(self.outputs(theta, self.inputs), self.targets)

    def gradient(self, theta):
        leaf = theta.clone().requires_grad_()
        return torch.autograd.grad(self.objective(leaf), leaf)[0]

    def hessian(self):
        """By jacrev of grad: right on every layer, unlike jacrev of jacrev."""
        return jacrev(grad(self.objective), chunk_size=64)(self.theta)

    def difference_products(self, V, step=1e-3):
        """H V by central differences of the gradient, extrapolated once."""
        columns = []
        for e in V.T:

            def central(h, e=e):
                above = self.gradient(self.theta + h * e)
                return (above - self.gradient(self.theta - h * e)) / (2 * h)

            columns.append((4 * central(step / 2) - central(step)) / 3)
        return torch.stack(columns, dim=1)

    def jacobian(self):
        """Row by row, by one reverse pass each: no batching rule takes part."""
        leaf = self.theta.clone().requires_grad_()
        outputs = self.outputs(leaf, self.inputs)
        rows = [
            torch.autograd.grad(f, leaf, retain_graph=True)[0]
            for f in outputs.reshape(-1)
        ]
        return torch.stack(rows)

    def _at_outputs(self):
        f = self.outputs(self.theta, self.inputs).detach()

        def loss(flat):
            return self.case.oracle_loss(flat.view_as(f), self.targets)

        return loss, f.reshape(-1), f.shape

    def ggn(self):
        loss, f, _ = self._at_outputs()
        J = self.jacobian()
        return J.T @ jacrev(grad(loss))(f) @ J

    def sample_gradients(self, denominator):
        """Gradient of each sample's own term of the sum, one row a sample."""
        loss, f, shape = self._at_outputs()
        residual = denominator * grad(loss)(f)
        rows = (residual[:, None] * self.jacobian()).view(shape[0], -1, len(self.theta))
        return rows.sum(1)
