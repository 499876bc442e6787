import type { ComponentChildren, VNode } from 'preact';
import { useEffect, useState } from 'preact/hooks';
import { ApiError } from '../api/error';
import type { ServerStatus } from '../api/status';
import { mostSamples, pagesInUse, sampleOf, share, type Sample } from '../api/status-history';
import { client } from '../app/server';
import { useText } from '../text/language';
import { ExpertMap } from './expert-map';
import { SidePanel } from './side-panel';
import { Sparkline } from './sparkline';

interface Seen {
  status: ServerStatus | null;
  samples: readonly Sample[];
  /** Why there is no news; null if there is. */
  problem: string | null;
}

const period = 1000;

/** Looks at the server once a second, as long as the component is there and the page is in sight. */
function useStatus(): Seen {
  const [seen, setSeen] = useState<Seen>({ status: null, samples: [], problem: null });
  useEffect(() => {
    const abort = new AbortController();
    let timer = 0;
    const look = async (): Promise<void> => {
      try {
        const status = await client.status(abort.signal);
        setSeen((now) => ({
          status,
          samples: [...now.samples, sampleOf(status, now.status)].slice(-mostSamples),
          problem: null,
        }));
      } catch (error) {
        if (abort.signal.aborted) return;
        setSeen((now) => ({ ...now, problem: error instanceof ApiError ? error.message : '' }));
      }
      // From reply to request, so that a slow server is not asked twice at a time.
      timer = window.setTimeout(lookIfInSight, period);
    };
    const lookIfInSight = (): void => {
      if (document.hidden) timer = window.setTimeout(lookIfInSight, period);
      else void look();
    };
    void look();
    return () => {
      abort.abort();
      clearTimeout(timer);
    };
  }, []);
  return seen;
}

/** Load, cache, drafts and experts of the server, live. */
export function StatusPanel(): VNode {
  const { t } = useText();
  const { status, samples, problem } = useStatus();
  return (
    <SidePanel title={t.serverStatus} note={status?.model ?? ''}>
      {problem !== null && (
        <p class="notice notice-error" role="alert">
          <span>
            {t.statusStale} <span class="notice-detail">{problem}</span>
          </span>
        </p>
      )}
      {status && <Figures status={status} samples={samples} />}
      {!status && problem === null && <p class="status-note">{t.loading}</p>}
    </SidePanel>
  );
}

function Figures({ status, samples }: { status: ServerStatus; samples: readonly Sample[] }): VNode {
  const { t, f } = useText();
  const { requests, tokens, cache, speculation } = status;
  const used = pagesInUse(cache);
  const rate = (part: number, whole: number): string => {
    const fraction = share(part, whole);
    return fraction === null ? '–' : f.percent(fraction);
  };
  return (
    <>
      <Part name={t.speed} value={t.tokensPerSecond(f.rate(tokens.perSecond))} note={t.generatedTokens(f.count(tokens.generated))}>
        <Sparkline values={samples.map((sample) => sample.tokensPerSecond)} top={0} label={`${t.speed}, ${t.lastMinute}`} />
      </Part>
      <Part name={t.requests} value={`${f.count(requests.running)} ${t.running}`} note={`${f.count(requests.waiting)} ${t.waitingRequests}`}>
        <Sparkline values={samples.map((sample) => sample.running)} top={0} label={`${t.requests}, ${t.lastMinute}`} />
        <p class="status-note">
          {f.count(requests.finished)} {t.finished} · {f.count(requests.cancelled)} {t.cancelled} · {f.count(requests.refused)} {t.refused}
        </p>
      </Part>
      <Part name={t.cache} value={rate(used, cache.pages)} note={t.cacheInUse}>
        <CacheBar used={used} kept={cache.kept} pages={cache.pages} />
        <p class="status-note">{t.cacheSize(f.count(cache.pages), f.count(cache.pageTokens), f.bytes(cache.bytes))}</p>
      </Part>
      <Part name={t.hitRate} value={rate(tokens.cached, tokens.prompt)} note={t.hitRateOf(f.count(tokens.cached), f.count(tokens.prompt))}>
        <Sparkline values={samples.map((sample) => sample.hitRate)} top={1} label={`${t.hitRate}, ${t.lastMinute}`} />
      </Part>
      {speculation.drafts > 0 ? (
        <Part
          name={t.speculation}
          value={rate(speculation.accepted, speculation.proposed)}
          note={t.speculationOf(f.count(speculation.accepted), f.count(speculation.proposed))}
        >
          <Sparkline values={samples.map((sample) => sample.acceptance)} top={1} label={`${t.speculation}, ${t.lastMinute}`} />
          {!speculation.active && <p class="status-note">{t.speculationPaused}</p>}
        </Part>
      ) : (
        <Part name={t.speculation} value="–" note={t.speculationOff} />
      )}
      {status.experts.length > 0 && (
        <Part name={t.experts}>
          <ExpertMap load={status.experts} />
          <p class="status-note">{t.expertsNote}</p>
        </Part>
      )}
      <dl class="status-facts">
        <dt>{t.version}</dt>
        <dd>{status.version || '–'}</dd>
        <dt>{t.uptime}</dt>
        <dd>{f.duration(status.uptime * 1000)}</dd>
        <dt>{t.context}</dt>
        <dd>{status.context > 0 ? t.tokens(f.count(status.context)) : '–'}</dd>
      </dl>
    </>
  );
}

interface PartProps {
  name: string;
  value?: string;
  note?: string;
  children?: ComponentChildren;
}

function Part({ name, value, note, children }: PartProps): VNode {
  return (
    <section class="status-part">
      <h3>{name}</h3>
      {value && (
        <p class="status-value">
          <b>{value}</b> {note && <span>{note}</span>}
        </p>
      )}
      {children}
    </section>
  );
}

function CacheBar({ used, kept, pages }: { used: number; kept: number; pages: number }): VNode {
  const { t, f } = useText();
  const free = Math.max(0, pages - used - kept);
  const parts = [
    ['used', used, t.cacheInUse],
    ['kept', kept, t.cacheKept],
    ['free', free, t.cacheFree],
  ] as const;
  return (
    <>
      <div class="cache-bar" aria-hidden="true">
        {parts.map(([part, count]) => (
          <span key={part} class={`cache-${part}`} style={{ flexGrow: String(count) }} />
        ))}
      </div>
      <ul class="legend">
        {parts.map(([part, count, name]) => (
          <li key={part}>
            <i class={`cache-${part}`} /> {f.count(count)} {name}
          </li>
        ))}
      </ul>
    </>
  );
}
