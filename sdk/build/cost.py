"""Sizes, tokens and GPUs in; hours, money, energy and disk of a distillation on paper out.

    student, forward and backward:  6 × parameters FLOPs a token and pass        (arXiv:2001.08361, section 2.1)
    teacher, forward:               2 × parameters FLOPs a token, once, or in each pass where nothing is kept
    hours = FLOPs / (GPUs × peak × utilisation) / availability

Utilisation here is tokens × 6 × parameters over the peak, so what attention over the context costs is inside it. Where
a figure is from stands in docs/scale.md; nothing here was run on a GPU.
"""

from dataclasses import dataclass

__all__ = ["H100", "Cluster", "Cost", "Job", "cost"]


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What computes."""

    gpus: int = 64
    """Number of GPUs, ≥ 1."""
    peak: float = 989e12
    """FLOPs a second of one GPU in bfloat16, dense."""
    training_utilisation: float = 0.362
    """Share of the peak that training the student reaches, in (0, 1]."""
    reading_utilisation: float = 0.409
    """Share of the peak that the teacher's forward pass reaches, in (0, 1]."""
    availability: float = 0.9
    """Share of the time that is neither restart nor repair, in (0, 1]."""
    price: float = 3.0
    """US dollars of a GPU hour."""
    watts: float = 910.0
    """Of one GPU with its share of everything else."""

    def __post_init__(self) -> None:
        """Refuse what is no cluster."""
        for name in ("training_utilisation", "reading_utilisation", "availability"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in (0, 1], got {getattr(self, name)}")
        if self.gpus < 1 or min(self.peak, self.watts) <= 0 or self.price < 0:
            raise ValueError("a cluster needs GPUs with a peak and a power above 0, and no negative price")


H100 = Cluster()
"""64 H100 SXM."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """What is computed."""

    teacher: float = 70e9
    """Parameters that a token meets in the teacher; 0 where there is none."""
    student: float = 3e9
    """Parameters that a token meets in the student."""
    tokens: float = 100e9
    """Distinct tokens."""
    passes: int = 1
    """Times that the student sees each, ≥ 1."""
    kept: bool = False
    """Whether the teacher's answers are kept on disk, so that it reads each token once."""
    bytes_per_token: float = 384.0
    """Of what is kept: 64 tokens with 4 bytes of id and 2 of log-probability."""
    overhead: float = 1.03
    """Time of a student's step with the distillation loss over one with cross-entropy only, ≥ 1."""

    def __post_init__(self) -> None:
        """Refuse what is no job."""
        if self.student <= 0 or self.tokens <= 0 or self.passes < 1 or self.teacher < 0 or self.overhead < 1:
            raise ValueError("a job needs a student, tokens and a pass, and an overhead of at least 1")


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What it takes."""

    teacher_hours: float
    """Wall hours in which the teacher reads."""
    student_hours: float
    """Wall hours in which the student learns."""
    gpu_hours: float
    """Hours of all GPUs."""
    dollars: float
    """US dollars."""
    megawatt_hours: float
    """Energy."""
    terabytes: float
    """Disk for the teacher's answers; 0 where nothing is kept."""

    @property
    def days(self) -> float:
        """Wall days from start to end."""
        return (self.teacher_hours + self.student_hours) / 24


def cost(job: Job, cluster: Cluster = H100) -> Cost:
    """Price a distillation."""
    hourly = cluster.gpus * cluster.peak * cluster.availability * 3600  # FLOPs an hour at full use.
    read = job.tokens * (1 if job.kept else job.passes)
    teacher_hours = 2 * job.teacher * read / (hourly * cluster.reading_utilisation)
    learned = 6 * job.student * job.tokens * job.passes * job.overhead
    student_hours = learned / (hourly * cluster.training_utilisation)
    gpu_hours = cluster.gpus * (teacher_hours + student_hours)
    return Cost(
        teacher_hours=teacher_hours,
        student_hours=student_hours,
        gpu_hours=gpu_hours,
        dollars=gpu_hours * cluster.price,
        megawatt_hours=gpu_hours * cluster.watts / 1e6,
        terabytes=job.tokens * job.bytes_per_token / 1e12 if job.kept else 0.0,
    )
